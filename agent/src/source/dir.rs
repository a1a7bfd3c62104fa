//! Manifests on disk.
