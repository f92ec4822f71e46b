//! The ckptadv command: what an image holds, and the image as advice wants it.

mod advice;
mod inspect;
mod rewrite;

use ckpt_restart::{Error, log, refuse};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Advice for the descriptors of restarted processes: ckptadv(1).
#[derive(Parser)]
#[command(name = "ckptadv", version, about)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Show what an image holds: one line for each open file description
    Inspect {
        /// A Linux-CR image (a file, or - for standard input), or a directory that criu wrote
        #[arg(value_name = "IMAGE")]
        image: PathBuf,
    },
    /// Write an image anew, as advice wants it
    Rewrite {
        #[command(flatten)]
        advice: advice::Options,
        /// A Linux-CR image, or a directory that criu wrote [default: standard input]
        #[arg(value_name = "INPUT")]
        input: Option<PathBuf>,
        /// Where to write it [default: standard output]
        #[arg(short, long, value_name = "OUTPUT")]
        output: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    log::start(log::Level::Warn);
    let result = match Command::parse().verb {
        Verb::Inspect { image } => inspect::inspect(&image),
        Verb::Rewrite {
            advice,
            input,
            output,
        } => rewrite::rewrite(&advice, input.as_deref(), output.as_deref()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.errno() == libc::EPIPE => ExitCode::FAILURE,
        Err(error) => {
            refuse!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The image to read: a file, or standard input for `-`.
fn open(path: &std::path::Path) -> Result<std::fs::File, Error> {
    if path == std::path::Path::new("-") {
        use std::os::fd::AsFd;
        return std::io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map(std::fs::File::from)
            .map_err(|e| Error::system("standard input", e));
    }
    std::fs::File::open(path).map_err(|e| Error::system(path.display().to_string(), e))
}
