//! `ckptadv run`: a restart program with the library and the advice.

mod child;
mod heard;
pub mod obstacle;

use crate::advice;
use ckpt_restart::{library, log, refuse, report};
use heard::{Listener, Run};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// As env(1): this command itself failed; a program cannot be started; it is not there.
pub const FAILED: u8 = 125;
const NOT_STARTED: u8 = 126;
const NOT_FOUND: u8 = 127;

/// What to run, and how.
#[derive(clap::Args)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    advice: advice::Options,
    /// Print the plan, and restart nothing
    #[arg(long)]
    dry_run: bool,
    /// Where to write what became of each restart, as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The library [default: libckptadv.so beside this program, or where it is installed]
    #[arg(long, value_name = "PATH")]
    library: Option<PathBuf>,
    /// How much the library says: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"], hide_possible_values = true)]
    log: Option<String>,
    /// Where it says it [default: standard error]
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// The number of this kernel's restart system call
    #[arg(long, value_name = "N")]
    restart_nr: Option<u16>,
    /// The restart program, or one that starts it, and its arguments
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true)]
    program: Vec<OsString>,
}

/// Why the program was not started, and the exit status of that.
struct Failure(u8, String);

/// Runs a program to its end, and says what became of the restart.
pub fn run(options: &Options) -> ExitCode {
    if let Err(error) = options.advice.advice() {
        log::refused(&error.into());
        return ExitCode::from(advice::REFUSED);
    }
    match run_and_wait(options) {
        Ok(run) => {
            refuse!("{run}");
            ExitCode::from(run.status())
        }
        Err(Failure(status, message)) => {
            refuse!("{message}");
            ExitCode::from(status)
        }
    }
}

fn run_and_wait(options: &Options) -> Result<Run, Failure> {
    let (name, arguments) = options.program.split_first().expect("clap requires it");
    let shown = name.to_string_lossy().into_owned();
    let failed = |message| Failure(FAILED, message);
    let program = obstacle::locate(name).map_err(|error| not_started(&shown, &error))?;
    obstacle::look(&program, arguments).map_err(failed)?;
    let library = match &options.library {
        Some(path) => absolute(path)?,
        None => library().map_err(failed)?,
    };
    let preload = library::preload(&library, OTHERWISE).map_err(failed)?;
    let listener = Listener::new().map_err(|e| {
        failed(format!(
            "cannot hear from the library (is /proc mounted?): {e}"
        ))
    })?;
    let report = options.report.as_deref().map(absolute).transpose()?;
    if let Some(path) = &report {
        report::make_way(path).map_err(|error| not_reported(path, &error))?;
    }
    let mut command = Command::new(&program);
    command
        .arg0(name)
        .args(arguments)
        .env("LD_PRELOAD", preload)
        .env("CKPT_RUN", listener.address().to_string());
    for (variable, value) in options.variables()? {
        command.env(variable, value);
    }
    let ended = child::run(&mut command).map_err(|error| not_started(&shown, &error))?;
    let heard = listener
        .heard()
        .map_err(|e| failed(format!("cannot read what was told: {e}")))?;
    let run = Run {
        program: shown,
        ended,
        heard,
    };
    if let Some(path) = &report {
        report::replace(path, &run).map_err(|error| not_reported(path, &error))?;
    }
    Ok(run)
}

impl Options {
    /// What the options mean to the library.
    fn variables(&self) -> Result<Vec<(&'static str, OsString)>, Failure> {
        let mut all = self.advice.variables();
        let log_file = self.log_file.as_deref().map(absolute).transpose()?;
        let others = [
            ("CKPT_DRY_RUN", self.dry_run.then(|| "1".into())),
            ("CKPT_LOG", self.log.as_ref().map(Into::into)),
            ("CKPT_LOG_FILE", log_file.map(Into::into)),
            (
                "CKPT_RESTART_NR",
                self.restart_nr.map(|nr| nr.to_string().into()),
            ),
        ];
        all.extend(
            others
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        Ok(all)
    }
}

/// What a user does whose library is elsewhere.
const OTHERWISE: &str = "give --library";

/// The library, unless the user says otherwise.
///
/// # Errors
/// Where it was looked for, and what to do.
pub fn library() -> Result<PathBuf, String> {
    // The directory that this program was built to be installed with.
    library::find(option_env!("CKPTADV_LIBDIR"), OTHERWISE)
}

/// The program may be in another directory.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure(FAILED, format!("{}: {e}", path.display())))
}

fn not_started(program: &str, error: &io::Error) -> Failure {
    let status = match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_STARTED,
    };
    Failure(status, format!("{program}: {error}"))
}

fn not_reported(path: &Path, error: &io::Error) -> Failure {
    Failure(FAILED, format!("--report={}: {error}", path.display()))
}

/// Whether the command line, which is wrong, is one of this command.
pub fn is_meant() -> bool {
    std::env::args_os().nth(1).as_deref() == Some(OsStr::new("run"))
}
