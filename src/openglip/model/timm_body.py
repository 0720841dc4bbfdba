"""Any backbone of timm that has a feature pyramid, instead of Swin (extra `train`)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from openglip.errors import ConfigError, MissingExtraError


class TimmBody(nn.Module):
    """A timm model by its name as an image encoder: images B x 3 x H x W -> maps of strides 8, 16, 32.

    pretrained: let timm load its weights. Raises ConfigError for a name that timm does not know or that has no such
    maps, MissingExtraError without timm.
    """

    def __init__(self, name: str, pretrained: bool = False) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise MissingExtraError("timm", "train", f"the backbone {name!r}") from error
        try:
            self.model = timm.create_model(name, features_only=True, pretrained=pretrained)
        except (RuntimeError, AttributeError) as error:
            raise ConfigError(f"timm can't make a feature pyramid of {name!r}: {error}") from error
        features: Any = self.model.feature_info
        strides = features.reduction()
        missing = {8, 16, 32} - set(strides)
        if missing:
            raise ConfigError(f"timm's {name!r} has maps of strides {strides}; 8, 16 and 32 are needed")
        self._picked = [strides.index(s) for s in (8, 16, 32)]
        self.channels = tuple(features.channels()[i] for i in self._picked)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.model(images)
        return [maps[i] for i in self._picked]
