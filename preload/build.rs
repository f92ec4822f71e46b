//! Gives the library its name for the loader, which then knows it however it was found.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libckptadv.so");
}
