//! Gives the shared library its name of the ABI: `libcradvise.so.0`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcradvise.so.0");
}
