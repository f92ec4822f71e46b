//! Gives the library its name for the loader, which then knows it however it was found.
//! What is hooked calls into it until the process ends: dlclose(3) leaves it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libckptadv.so");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
