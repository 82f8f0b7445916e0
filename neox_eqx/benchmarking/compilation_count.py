"""How often XLA compiled, as JAX tells."""

from typing import Any

import jax


class CompilationCount:
    """Counts XLA's compilations from when it is made."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"
