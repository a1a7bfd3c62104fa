//! Integration tests.

pub mod apiserver;
pub mod case;
pub mod cni;
pub mod e2e;
pub mod hostile;
pub mod http;
pub mod lab;
pub mod node;
pub mod packet;
pub mod random;
pub mod scene;
pub mod simulated;
pub mod traffic;
pub mod translate;
pub mod truth;
pub mod wire;

/// Fails with a message where the test does not run as root. `cargo xtask test` does.
///
/// # Panics
/// Without root.
pub fn needs_root() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: run `cargo xtask test`");
}
