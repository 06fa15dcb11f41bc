//! meshd/plugin-host
