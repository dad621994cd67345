"""ControlNets and T2I-Adapters: which act on a conditioning now, and how to run none of them for a forecast."""

from collections.abc import Callable, Hashable, Iterator
from typing import Any


class LazyResiduals(dict[str, Any]):
    """A control network's residuals: a dict that runs the network when it is first looked into.

    A forecast never looks into it. A wrapper of another pack may, and finds what it expects.
    """

    def __init__(self, compute: Callable[[], dict[str, Any] | None]) -> None:
        super().__init__()
        self._compute: Callable[[], dict[str, Any] | None] | None = compute
        self._none = False

    def computed(self) -> dict[str, Any] | None:
        """The residuals as the control gives them."""
        compute, self._compute = self._compute, None
        if compute is not None:
            found = compute()
            self._none = found is None
            super().update(found or {})
        return None if self._none else self

    def __getitem__(self, key: str) -> Any:
        self.computed()
        return super().__getitem__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self.computed()
        super().__setitem__(key, value)

    def __contains__(self, key: object) -> bool:
        self.computed()
        return super().__contains__(key)

    def __iter__(self) -> Iterator[str]:
        self.computed()
        return super().__iter__()

    def __len__(self) -> int:
        self.computed()
        return super().__len__()

    def __eq__(self, other: object) -> bool:
        self.computed()
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]

    def get(self, key: str, default: Any = None) -> Any:
        """See dict."""
        self.computed()
        return super().get(key, default)

    def keys(self) -> Any:
        """See dict."""
        self.computed()
        return super().keys()

    def values(self) -> Any:
        """See dict."""
        self.computed()
        return super().values()

    def items(self) -> Any:
        """See dict."""
        self.computed()
        return super().items()

    def copy(self) -> dict[str, Any]:
        """See dict."""
        self.computed()
        return dict(super().items())

    def pop(self, *args: Any) -> Any:
        """See dict."""
        self.computed()
        return super().pop(*args)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """See dict."""
        self.computed()
        super().update(*args, **kwargs)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """See dict."""
        self.computed()
        return super().setdefault(key, default)


class DeferredControl:
    """A conditioning's control whose network runs only if somebody needs its residuals."""

    def __init__(self, control: Any) -> None:
        object.__setattr__(self, "_control", control)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._control, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._control, name, value)  # AnimateDiff-Evolved tells a control its window so

    def get_control(self, *args: Any) -> LazyResiduals:
        """The residuals, later."""
        return LazyResiduals(lambda: self._control.get_control(*args))

    def get_instance_for_device(self, device: Any) -> "DeferredControl":
        """For another GPU."""
        return DeferredControl(self._control.get_instance_for_device(device))


def active_controls(control: Any, sigma: float) -> Hashable:
    """Which controls of a chain act at a noise level."""
    active = []
    while control is not None:
        start, end = getattr(control, "timestep_range", None) or (float("inf"), 0.0)
        active.append(end <= sigma <= start)
        control = getattr(control, "previous_controlnet", None)
    return tuple(active)
