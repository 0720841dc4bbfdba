from collections import Counter

from openglip.data.sampling import uniform_sample


def test_a_sample_is_uniform_ordered_and_a_function_of_the_seed():
    assert uniform_sample(iter(range(3)), 8, seed=0) == [0, 1, 2]
    assert uniform_sample(range(100), 5, seed=1) == uniform_sample(iter(range(100)), 5, seed=1)
    counts = Counter()
    for seed in range(2000):
        sample = uniform_sample(range(10), 3, seed)
        assert sample == sorted(set(sample))
        counts.update(sample)
    assert all(500 < counts[item] < 700 for item in range(10))
