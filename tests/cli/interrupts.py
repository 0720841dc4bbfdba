"""For processes that a test interrupts."""

import signal


def hear_interrupts() -> None:
    """`preexec_fn`: a job in a shell's background is started deaf to SIGINT, and so would be all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
