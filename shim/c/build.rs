//! Gives the shared library its name of the ABI, `libcradvise.so.0`, and keeps it loaded, with the advice that it
//! keeps, where a plugin brought it that is unloaded.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcradvise.so.0,-z,nodelete");
}
