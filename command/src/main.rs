//! The ckptadv command: a restart program with advice, what an image holds, and the
//! image as advice wants it.

mod advice;
mod check;
#[cfg(test)]
mod completions;
mod diff;
mod image;
mod inspect;
mod marks;
mod plan;
mod progress;
mod rewrite;
mod run;
mod standard;
mod table;

use crate::inspect::Form;
use ckpt_restart::{log, refuse};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
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
    /// Run a restart program with advice for the descriptors of what it restarts
    #[command(override_usage = "ckptadv run [OPTIONS] [--] PROGRAM [ARGUMENT]...")]
    Run(run::Options),
    /// Show what an image holds: tasks, descriptors and open file descriptions
    Inspect {
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
        /// As a picture, for dot(1) of Graphviz
        #[arg(long, conflicts_with = "json")]
        dot: bool,
        /// A Linux-CR image (a file, or - for standard input), or a directory that criu wrote
        #[arg(value_name = "IMAGE")]
        image: PathBuf,
    },
    /// Show what tells the descriptors of two images apart
    Diff {
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
        /// A Linux-CR image (a file, or - for standard input), or a directory that criu wrote
        #[arg(value_name = "A")]
        a: PathBuf,
        /// Another
        #[arg(value_name = "B")]
        b: PathBuf,
    },
    /// Show what advice would do at the restart of an image, and why
    Plan {
        #[command(flatten)]
        advice: advice::Options,
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
        /// A Linux-CR image (a file, or - for standard input), or a directory that criu wrote
        #[arg(value_name = "IMAGE")]
        image: PathBuf,
    },
    /// Show what a restore on this machine would fail on, or lose, and what cures it
    Check {
        #[command(flatten)]
        advice: advice::Options,
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
        /// A Linux-CR image (a file, or - for standard input), or a directory that criu wrote
        /// [default: what works on this machine]
        #[arg(value_name = "IMAGE")]
        image: Option<PathBuf>,
        /// Options that criu restore will have
        #[arg(value_name = "CRIU-OPTION", last = true, requires = "image")]
        criu: Vec<OsString>,
    },
    /// Show what a running program advises of its own descriptors
    Show {
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
        /// The program
        #[arg(value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
        pid: i32,
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

/// Has what was large given back as soon as it is freed. The allocator would keep more the more was freed, and a file
/// table of a hundred thousand descriptors is large for a moment only.
fn return_large_memory() {
    // SAFETY: mallopt takes integers, and no other thread runs yet.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10) };
}

fn main() -> ExitCode {
    return_large_memory();
    log::start(log::Level::Warn);
    let command = Command::try_parse().unwrap_or_else(|error| {
        let _ = error.print();
        std::process::exit(match error.exit_code() {
            0 => 0,
            _ if run::is_meant() => run::FAILED.into(),
            status => status,
        })
    });
    let mut failure = ExitCode::FAILURE;
    let result = match command.verb {
        Verb::Run(options) => Ok(run::run(&options)),
        Verb::Inspect { json, dot, image } => {
            let form = match (json, dot) {
                (true, _) => Form::Json,
                (_, true) => Form::Dot,
                _ => Form::Text,
            };
            inspect::inspect(&image, form).map(|()| ExitCode::SUCCESS)
        }
        Verb::Diff { json, a, b } => {
            failure = ExitCode::from(diff::TROUBLE);
            diff::diff([&a, &b], json)
        }
        Verb::Plan {
            advice,
            json,
            image,
        } => plan::plan(&advice, json, &image),
        Verb::Check {
            advice,
            json,
            image,
            criu,
        } => match image {
            Some(image) => check::image(&advice, json, &image, &criu),
            None if advice.is_empty() => check::machine(json),
            None => Command::command()
                .error(
                    ErrorKind::MissingRequiredArgument,
                    "advice is for an image: give IMAGE",
                )
                .exit(),
        },
        Verb::Show { json, pid } => marks::show(pid, json).map(|()| ExitCode::SUCCESS),
        Verb::Rewrite {
            advice,
            input,
            output,
        } => rewrite::rewrite(&advice, input.as_deref(), output.as_deref())
            .map(|()| ExitCode::SUCCESS),
    };
    match result {
        Ok(status) => status,
        Err(error) if error.errno() == libc::EPIPE => failure,
        Err(error) => {
            refuse!("{error}");
            failure
        }
    }
}
