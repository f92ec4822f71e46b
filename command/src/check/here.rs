//! What works on this machine, and what to do next.

use super::probe::{self, Ended};
use crate::run::{self, obstacle};
use ckpt_image::json::{Json, Lines, Object};
use ckpt_restart::{caller, memory};
use std::env;
use std::ffi::{CStr, OsStr};
use std::fmt::{self, Write};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The version of what [`Here`] is as JSON. A field that goes or changes its meaning
/// makes it a higher one, a field that comes does not.
const SCHEMA: u32 = 1;

/// A criu answers sooner.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is to be said of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub name: &'static str,
    pub state: State,
    pub text: String,
    /// What to do.
    pub remedy: Option<String>,
}

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Good,
    /// Without it nothing is restored with advice.
    Missing,
    /// To be known.
    Known,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Good => "ok",
            State::Missing => "NO",
            State::Known => "-",
        }
    }
}

impl Item {
    fn good(name: &'static str, text: impl Into<String>) -> Self {
        Item {
            name,
            state: State::Good,
            text: text.into(),
            remedy: None,
        }
    }

    fn missing(name: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Item {
            name,
            state: State::Missing,
            text: text.into(),
            remedy: Some(remedy.into()),
        }
    }
}

/// All that is to be said.
pub struct Here(pub Vec<Item>);

impl Here {
    /// Looks.
    pub fn look() -> Self {
        let (library, program) = (run::library(), obstacle::locate(OsStr::new("criu")));
        let mut items = vec![
            kernel(),
            files(),
            privileges(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
        ];
        items.push(match &library {
            Ok(path) => Item::good("library", path.display().to_string()),
            Err(why) => Item::missing("library", why, "install it (make install)"),
        });
        match &program {
            Ok(path) => items.push(criu(path)),
            Err(_) => items.push(Item::missing(
                "criu",
                "not in PATH",
                "install criu (apt install criu), or add its directory to PATH",
            )),
        }
        if let (Ok(library), Ok(program)) = (&library, &program) {
            items.push(preload(program, library));
        }
        items.push(number());
        Here(items)
    }

    /// Whether criu can restore with advice.
    pub fn is_ready(&self) -> bool {
        self.0.iter().all(|item| item.state != State::Missing)
    }

    /// What to do next, as lines.
    pub fn next(&self) -> Vec<String> {
        let missing = self.0.iter().find(|item| item.state == State::Missing);
        if let Some(remedy) = missing.and_then(|item| item.remedy.as_ref()) {
            return vec![remedy.clone()];
        }
        vec![
            "ckptadv check IMAGE".to_owned(),
            "ckptadv run --ignore 7 -- criu restore -D IMAGE".to_owned(),
        ]
    }
}

fn kernel() -> Item {
    // SAFETY: utsname is plain data, and is filled with strings that end in a NUL.
    let (release, machine) = unsafe {
        let mut name: libc::utsname = std::mem::zeroed();
        libc::uname(&raw mut name);
        let text = |field: &[libc::c_char]| {
            CStr::from_ptr(field.as_ptr())
                .to_string_lossy()
                .into_owned()
        };
        (text(&name.release), text(&name.machine))
    };
    let text = format!("Linux {release}, {machine}");
    match Path::new("/proc/sys/kernel/ns_last_pid").exists() {
        true => Item::good("kernel", text),
        false => Item::missing(
            "kernel",
            format!("{text}, without checkpoint and restore"),
            "use a kernel built with CONFIG_CHECKPOINT_RESTORE",
        ),
    }
}

/// What the library needs of the system: /proc and files in memory.
fn files() -> Item {
    if let Err(error) = caller::open_numbers() {
        let text = format!("/proc/self/fd: {error}");
        return Item::missing("/proc", text, "mount -t proc proc /proc");
    }
    match memory::file(c"ckptadv", true) {
        Err(error) => Item::missing(
            "/proc",
            format!("no files in memory: {error}"),
            "allow memfd_create(2) (a seccomp filter may forbid it)",
        ),
        Ok(_) => Item::good("/proc", "mounted; files in memory can be made"),
    }
}

/// * `status`: /proc/self/status.
fn privileges(status: &str) -> Item {
    const SYS_ADMIN: u32 = 21;
    const CHECKPOINT_RESTORE: u32 = 40;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    let has = |bit: u32| capabilities.is_some_and(|all| all & 1 << bit != 0);
    if has(SYS_ADMIN) {
        Item::good("privileges", "CAP_SYS_ADMIN")
    } else if has(CHECKPOINT_RESTORE) {
        Item {
            remedy: Some("criu needs --unprivileged".to_owned()),
            ..Item::good("privileges", "CAP_CHECKPOINT_RESTORE")
        }
    } else {
        Item::missing(
            "privileges",
            "neither CAP_SYS_ADMIN nor CAP_CHECKPOINT_RESTORE",
            "run it as root (sudo ckptadv check)",
        )
    }
}

fn criu(path: &Path) -> Item {
    let shown = path.display();
    let answer = probe::run(Command::new(path).arg("--version"), PATIENCE);
    let version = match answer {
        Ok(Ended {
            success: true,
            output,
        }) => version(&output),
        Ok(Ended { output, .. }) => {
            let text = format!("{shown} does not run: {}", first(&output));
            return Item::missing("criu", text, "install a criu that runs");
        }
        Err(error) => {
            let text = format!("{shown} does not run: {error}");
            return Item::missing("criu", text, "install a criu that runs");
        }
    };
    let version = version.unwrap_or_else(|| "of an unknown version".to_owned());
    let checked = probe::run(Command::new(path).arg("check"), PATIENCE);
    match checked {
        Ok(Ended { success: true, .. }) => {
            Item::good("criu", format!("{version}, {shown}: criu check passes"))
        }
        Ok(Ended { output, .. }) => Item::missing(
            "criu",
            format!("{version}, {shown}: criu check fails: {}", first(&output)),
            "run criu check; where the kernel is newer than criu, install a newer criu",
        ),
        Err(error) => Item::missing(
            "criu",
            format!("{version}, {shown}: criu check: {error}"),
            "run criu check",
        ),
    }
}

/// "Version: 4.1.1" and more.
fn version(output: &str) -> Option<String> {
    let mut lines = output.lines();
    lines.find_map(|line| Some(line.strip_prefix("Version:")?.trim().to_owned()))
}

/// The first line that tells of an error.
fn first(output: &str) -> String {
    let mut lines = output.lines().filter(|line| !line.trim().is_empty());
    let error = lines.clone().find(|line| line.contains("Error"));
    let line = error.or_else(|| lines.next()).unwrap_or("it says nothing");
    crate::table::printable(line.trim())
}

/// Has the dynamic loader tell whether it loads the library into criu. That is right
/// for every reason why it would not: a static program, another machine's, one with
/// privileges of its own, a wrapper that clears the environment.
fn preload(program: &Path, library: &Path) -> Item {
    let mut command = Command::new(program);
    command.arg("--version");
    command.env("LD_PRELOAD", library).env("LD_DEBUG", "files");
    let said = probe::run(&mut command, PATIENCE).map(|ended| ended.output);
    match said.is_ok_and(|said| is_loaded(&said, library.as_os_str())) {
        true => Item::good("preload", "criu loads the library"),
        false => {
            let why = obstacle::look(program, &[]).err();
            let why = why.unwrap_or_else(|| "criu does not load the library".to_owned());
            Item::missing(
                "preload",
                why,
                "use a criu that is linked dynamically with glibc, and no wrapper that clears \
                 LD_PRELOAD",
            )
        }
    }
}

/// Whether the program that was started last has loaded it.
///
/// * `said`: what LD_DEBUG=files says.
fn is_loaded(said: &str, library: &OsStr) -> bool {
    let library = library.to_string_lossy();
    let (mut loaded, mut last) = (false, None);
    for line in said.lines() {
        if let Some((_, path)) = line.split_once("calling init: ") {
            loaded |= path.trim() == library;
        } else if let Some((_, program)) = line.split_once("initialize program: ") {
            last = Some((std::mem::take(&mut loaded), program));
        }
    }
    // A static program is silent: the one before it would be a shell.
    last.is_some_and(|(loaded, program)| loaded && program.contains("criu"))
}

fn number() -> Item {
    let (text, remedy) = match env::var("CKPT_RESTART_NR") {
        Ok(number) if !number.is_empty() => (format!("system call {number}"), None),
        _ => (
            "no number configured: known ones are recognised".to_owned(),
            Some("for Linux-CR on a kernel of your own: CKPT_RESTART_NR=N".to_owned()),
        ),
    };
    Item {
        name: "restart(2)",
        state: State::Known,
        text,
        remedy,
    }
}

impl Json for Here {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        Object::new(out)
            .field("version", &SCHEMA)?
            .field("ready", &self.is_ready())?
            .field("items", &Lines(self.0.iter()))?
            .field("next", self.next().as_slice())?
            .end()
    }
}

impl Json for Item {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        let good = match self.state {
            State::Good => Some(true),
            State::Missing => Some(false),
            State::Known => None,
        };
        Object::new(out)
            .field("name", self.name)?
            .field("ok", &good)?
            .field("text", &self.text)?
            .field("remedy", &self.remedy)?
            .end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_started_last_must_have_loaded_it() {
        let library = OsStr::new("/lib/libckptadv.so");
        let shell = "7: calling init: /lib/libckptadv.so\n7: initialize program: /bin/sh\n";
        let loads = "7: calling init: /lib/libckptadv.so\n7: initialize program: /usr/bin/criu\n";
        let clears = "7: calling init: /lib/libc.so.6\n7: initialize program: /usr/bin/criu\n";
        assert!(is_loaded(loads, library));
        assert!(is_loaded(&format!("{shell}{loads}"), library));
        assert!(!is_loaded(&format!("{shell}{clears}"), library));
        // It became a static one.
        assert!(!is_loaded(shell, library));
        assert!(!is_loaded("", library));
    }

    #[test]
    fn privileges_are_those_that_criu_asks_for() {
        let of = |text: &str| privileges(&format!("Name:\tx\nCapEff:\t{text}\n")).state;
        assert_eq!(of("000001ffffffffff"), State::Good);
        assert_eq!(of("0000010000000000"), State::Good);
        assert_eq!(of("0000000000200000"), State::Good);
        assert_eq!(of("0000000000000000"), State::Missing);
    }

    #[test]
    fn an_error_of_criu_is_shown_without_what_goes_before() {
        let output = "\nWarn  (x): a\nError (criu/cr-check.c:1): no vDSO\nLooks bad\n";
        assert_eq!(first(output), "Error (criu/cr-check.c:1): no vDSO");
        assert_eq!(first("\n"), "it says nothing");
        assert_eq!(
            version("Version: 4.2.1\nGitID: v4\n").as_deref(),
            Some("4.2.1")
        );
    }
}
