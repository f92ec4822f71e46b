//! Where `ckptadv rewrite` writes, and where it must not.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const IMAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/images/files.ckpt");

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ckptadv-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::copy(IMAGE, path.join("image")).unwrap();
        Scratch(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn ckptadv() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ckptadv"));
    command.args(["rewrite", "--ignore", "3"]);
    command
}

fn assert_fails(output: &Output, word: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(word), "{said}");
}

fn is_rewritten(path: &Path) -> bool {
    fs::read(path).unwrap() != fs::read(IMAGE).unwrap()
}

#[test]
fn an_image_is_not_read_from_where_it_is_written() {
    let scratch = Scratch::new("same");
    let image = scratch.path("image");
    for options in [
        OpenOptions::new().append(true),
        OpenOptions::new().write(true),
    ] {
        let mut command = ckptadv();
        command.stdin(File::open(&image).unwrap());
        command.stdout(options.open(&image).unwrap());
        assert_fails(&command.output().unwrap(), "give -o OUTPUT");
        assert_eq!(fs::read(&image).unwrap(), fs::read(IMAGE).unwrap());
    }
}

#[test]
fn the_output_may_be_the_input_and_a_link_stays_one() {
    let scratch = Scratch::new("link");
    let link = scratch.path("link");
    std::os::unix::fs::symlink(scratch.path("image"), &link).unwrap();
    let output = ckptadv().arg(&link).arg("-o").arg(&link).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert!(is_rewritten(&scratch.path("image")));
    assert_eq!(
        fs::read_dir(&scratch.0).unwrap().count(),
        2,
        "nothing else is left"
    );
}

/// An image has the memory of programs in it.
#[test]
fn nobody_may_read_the_output_who_may_not_read_the_input() {
    let scratch = Scratch::new("mode");
    let image = scratch.path("image");
    for mode in [0o600, 0o400, 0o640] {
        fs::set_permissions(&image, fs::Permissions::from_mode(mode)).unwrap();
        for name in ["out", "image"] {
            let out = scratch.path(name);
            let output = ckptadv().arg(&image).arg("-o").arg(&out).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            let has = fs::metadata(&out).unwrap().permissions().mode() & 0o777;
            assert_eq!(has & !mode, 0, "{has:o}");
            assert_eq!(has & 0o600, mode & 0o600);
        }
    }
}

#[test]
fn what_is_refused_leaves_no_output() {
    let scratch = Scratch::new("refused");
    let whole = fs::read(IMAGE).unwrap();
    fs::write(scratch.path("cut"), &whole[..whole.len() - 20]).unwrap();
    let output = ckptadv()
        .arg(scratch.path("cut"))
        .arg("-o")
        .arg(scratch.path("out"))
        .output()
        .unwrap();
    assert_fails(&output, "offset");
    assert!(!scratch.path("out").exists());
}

#[test]
fn a_path_to_substitute_is_written_and_not_made() {
    let scratch = Scratch::new("substitute");
    let log = scratch.path("log").display().to_string();
    let out = scratch.path("out");
    let rewrite = |list: &str| {
        let mut command = ckptadv();
        command.args(["--substitute", list]);
        command.arg(scratch.path("image")).arg("-o").arg(&out);
        command.output().unwrap()
    };
    let output = rewrite(&format!("1={log},2={log}"));
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    let warning = format!("{log} is not there yet");
    assert_eq!(said.matches(&warning).count(), 1, "{said}");
    assert!(!scratch.path("log").exists());
    let name = format!("{log}\0");
    let bytes = fs::read(&out).unwrap();
    let names = bytes.windows(name.len()).filter(|w| *w == name.as_bytes());
    assert_eq!(names.count(), 1, "one description for both");

    fs::write(&log, "text").unwrap();
    let output = rewrite(&format!("1={log}"));
    assert!(output.status.success() && output.stderr.is_empty());
    assert_eq!(fs::read(&log).unwrap(), b"text");

    fs::remove_file(&out).unwrap();
    assert_fails(
        &rewrite("6=/nowhere/at/all"),
        "is to be read and is not there",
    );
    assert!(!out.exists());
}

#[test]
fn what_takes_long_shows_how_far_it_is_on_a_terminal() {
    use std::io::{Read, Write};
    use std::os::fd::{FromRawFd, OwnedFd};
    let scratch = Scratch::new("progress");
    let image = fs::read(IMAGE).unwrap();
    let slowly = |stderr: std::process::Stdio, wait| {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut command = ckptadv();
        command.arg("-o").arg(scratch.path("new")).stdin(reader);
        let mut child = command.stderr(stderr).spawn().unwrap();
        drop(command);
        let (head, rest) = image.split_at(image.len() / 2);
        writer.write_all(head).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait));
        writer.write_all(rest).unwrap();
        drop(writer);
        assert!(child.wait().unwrap().success());
        assert!(is_rewritten(&scratch.path("new")));
    };
    let terminal = || {
        let (mut master, mut slave) = (-1, -1);
        let none = std::ptr::null_mut();
        // SAFETY: there is room for two descriptors, which are then owned.
        unsafe {
            libc::openpty(&mut master, &mut slave, none, none.cast(), none.cast());
            (
                File::from(OwnedFd::from_raw_fd(master)),
                OwnedFd::from_raw_fd(slave),
            )
        }
    };
    for (wait, expected) in [(1600, "ckptadv: 0 MiB\x1b[K\r"), (0, "")] {
        let (mut master, slave) = terminal();
        slowly(slave.into(), wait);
        let mut text = Vec::new();
        let _ = master.read_to_end(&mut text);
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with(expected), "{text:?}");
        assert!(text.is_empty() || text.ends_with("\r\x1b[K"), "{text:?}");
        assert!(wait > 0 || text.is_empty(), "{text:?}");
    }
    let log = scratch.path("stderr");
    slowly(File::create(&log).unwrap().into(), 1600);
    assert_eq!(fs::read_to_string(log).unwrap(), "");
}
