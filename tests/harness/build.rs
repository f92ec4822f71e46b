//! The programs that the tests run.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The C program `tests/programs/NAME.c`, compiled.
pub fn program(name: &str) -> PathBuf {
    compiled(name, name, &[])
}

/// The same, for a root file system without libraries.
pub fn static_program(name: &str) -> PathBuf {
    compiled(name, &format!("{name}-static"), &["-static"])
}

/// `tests/programs/NAME.c` as a library to preload.
pub fn shared_object(name: &str) -> PathBuf {
    compiled(name, name, &["-shared", "-fPIC"])
}

fn compiled(source: &str, name: &str, options: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("programs")
        .join(source)
        .with_extension("c");
    let directory = built().join("programs");
    std::fs::create_dir_all(&directory).expect("a place for programs in the target directory");
    let program = directory.join(name);
    if is_newer(&program, &source) {
        return program;
    }
    // Tests of one run may build the same program at once: each its own, and the last rename stays.
    let beside = directory.join(format!(
        "{name}.{}.{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let status = Command::new(compiler)
        .args(["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"])
        .args(options)
        .arg("-o")
        .arg(&beside)
        .arg(&source)
        .status()
        .expect("a C compiler");
    assert!(status.success(), "compiling {}", source.display());
    std::fs::rename(beside, &program).expect("a renamed program");
    program
}

/// A binary of this package.
pub fn binary(name: &str) -> PathBuf {
    let binary = built().join(name);
    assert!(binary.exists(), "{} is not built", binary.display());
    binary
}

/// A file of the product, as it is installed.
pub fn product(name: &str) -> PathBuf {
    let path = built().with_file_name("release").join(name);
    assert!(
        path.exists(),
        "no {}: run cargo build --release",
        path.display()
    );
    path
}

/// The command under test: `CKPTADV_PROGRAM` names it, or it is the product's.
pub fn command() -> PathBuf {
    let program = std::env::var_os("CKPTADV_PROGRAM").map(PathBuf::from);
    program.unwrap_or_else(|| product("ckptadv"))
}

/// Where cargo puts the binaries of the profile that this test was built in.
pub fn built() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    test.parent()
        .and_then(Path::parent)
        .expect("a test in target/PROFILE/deps")
        .to_owned()
}

fn is_newer(program: &Path, source: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    matches!((modified(program), modified(source)), (Ok(program), Ok(source)) if program > source)
}
