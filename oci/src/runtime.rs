//! The real runtime, and the environment that it gets.

use crate::administrator::Administrator;
use crate::refusal::Refusal;
use ckpt_restart::library;
use serde::Deserialize;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What this program is called; behind it may stand `-` and the name of a runtime.
const NAME: &[u8] = b"ckptadv-oci";

/// What is run where nobody says otherwise.
const DEFAULT: &str = "runc";

/// Where the library is installed, if not beside this program.
const DIRECTORIES: [&str; 5] = [
    "/usr/local/lib",
    "/usr/local/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
];

/// What an administrator does who has it elsewhere.
const OTHERWISE: &str = "name it in /etc/ckptadv/oci.toml";

/// Where programs of the system are.
const PROGRAMS: &[&str] = &[
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// The real runtime.
pub struct Runtime(PathBuf);

impl Runtime {
    /// Finds it.
    ///
    /// * `called`: the name by which this program was called.
    ///
    /// # Errors
    /// There is none, or it is this program.
    pub fn find(called: &OsStr, administrator: &Administrator) -> Result<Self, Refusal> {
        let suffix = Path::new(called)
            .file_name()
            .and_then(|name| name.as_bytes().strip_prefix(NAME))
            .and_then(|rest| rest.strip_prefix(b"-"))
            .filter(|rest| !rest.is_empty())
            .map(OsStr::from_bytes);
        let configured = match suffix {
            None => administrator.runtime.as_ref(),
            Some(name) => name
                .to_str()
                .and_then(|name| administrator.runtimes.get(name)),
        };
        let name = suffix.unwrap_or(OsStr::new(DEFAULT));
        let path = match configured {
            Some(path) => path.clone(),
            None => in_path(name).ok_or_else(|| {
                Refusal::new(
                    name.display(),
                    "no such runtime in PATH or /usr: name it in /etc/ckptadv/oci.toml",
                )
            })?,
        };
        let own = std::env::current_exe().and_then(|path| path.canonicalize());
        if let (Ok(own), Ok(real)) = (own, path.canonicalize())
            && own == real
        {
            return Err(Refusal::new(
                path.display(),
                "that is ckptadv-oci itself: name the real runtime in /etc/ckptadv/oci.toml",
            ));
        }
        Ok(Runtime(path))
    }

    /// Becomes the runtime; gives why it could not.
    ///
    /// * `environment`: in addition to our own, without the internal variables of the library where it is not empty.
    pub fn become_it(
        &self,
        arguments: &[OsString],
        environment: Vec<(&'static str, OsString)>,
    ) -> Refusal {
        let mut command = Command::new(&self.0);
        command.args(arguments);
        if !environment.is_empty() {
            std::env::vars_os()
                .filter(|(name, _)| name.as_bytes().starts_with(b"CRADVISE_"))
                .for_each(|(name, _)| {
                    command.env_remove(name);
                });
        }
        let error = command.envs(environment).exec();
        Refusal::new(self.0.display(), error)
    }

    /// The bundle of a container that runs.
    ///
    /// * `globals`: options before the command, which tell where the runtime keeps its state.
    ///
    /// # Errors
    /// The runtime does not know the container, or does not tell.
    pub fn bundle_of(&self, globals: &[OsString], container: &OsStr) -> Result<PathBuf, Refusal> {
        #[derive(Deserialize)]
        struct State {
            bundle: PathBuf,
        }
        let output = Command::new(&self.0)
            .args(globals)
            .args([OsStr::new("state"), OsStr::new("--"), container])
            .stdin(Stdio::null())
            .output()
            .map_err(|e| Refusal::new(self.0.display(), e))?;
        let what = format!("{} state {}", self.0.display(), container.display());
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Refusal::new(what, said.trim_end()));
        }
        let state: State =
            serde_json::from_slice(&output.stdout).map_err(|e| Refusal::new(what, e))?;
        Ok(state.bundle)
    }
}

/// The environment in which criu obeys.
///
/// * `advice`: variables of the library.
///
/// # Errors
/// The library is not there, or the environment has advice of its own.
pub fn environment(
    advice: Vec<(&'static str, OsString)>,
    administrator: &Administrator,
) -> Result<Vec<(&'static str, OsString)>, Refusal> {
    let foreign = std::env::vars_os()
        .find(|(name, value)| name.as_bytes().starts_with(b"CKPT_") && !value.is_empty());
    if let Some((name, _)) = foreign {
        return Err(Refusal::new(
            name.display(),
            "is set in the environment, and the container has advice in its annotations: unset \
             it, or call the runtime itself",
        ));
    }
    let mut environment = advice;
    let library = match &administrator.library {
        Some(path) => path.clone(),
        None => library::find(DIRECTORIES, OTHERWISE).map_err(Refusal)?,
    };
    // The loader would leave out what it cannot load, and the runtime run without advice.
    let preload = library::preload(&library, OTHERWISE).map_err(Refusal)?;
    environment.push(("LD_PRELOAD", preload));
    if let Some(level) = &administrator.log {
        environment.push(("CKPT_LOG", level.into()));
    }
    if let Some(path) = &administrator.log_file {
        environment.push(("CKPT_LOG_FILE", path.into()));
    }
    Ok(environment)
}

/// A program in PATH, or where programs of the system are: Podman deletes containers with no PATH at all.
fn in_path(name: &OsStr) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(PROGRAMS.iter().map(PathBuf::from))
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|path| {
            path.metadata()
                .is_ok_and(|status| status.is_file() && status.permissions().mode() & 0o111 != 0)
        })
}
