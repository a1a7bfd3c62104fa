//! How the programs are linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "bpf") {
        // LLVM likes to put a loop's last block before its first one. The body then falls through to
        // the loop's head, which the verifier takes for a loop without an end before Linux 6.8
        // ("back-edge from insn"); it looks at loops whose way back is a jump.
        println!("cargo::rustc-link-arg-bins=--llvm-args=-disable-block-placement");
    }
}
