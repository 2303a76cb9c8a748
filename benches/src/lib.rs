//! Speed is measured in `benches/`, the architecture is checked in `tests/`. Nothing to call.
