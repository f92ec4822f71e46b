//! A model of the restart(2) call of Linux-CR v20, for programs that make it on a kernel that has no such call.
//!
//! ```text
//! restart-model [--nr N]... [--verdict FILE] [--log FILE] -- PROGRAM ARGUMENTS...
//! ```
//!
//! Runs PROGRAM under a tracer. Wherever it or a descendant makes a restart call (numbers 302, 305 and 314, or
//! those given with `--nr`), the model does what the old kernel would have done: tasks wait for their turn, the
//! coordinator's image is read, and every task gets the descriptors of its records, through system calls that it
//! is made to do itself. Then the tasks sleep until they are killed. Everything else that PROGRAM does is left
//! alone, its exit status becomes that of the model (128 + N for signal N), and signals sent to the model are
//! passed on to it.
//!
//! It judges as 2.6.33 did, also where the kernel below it is more lenient. Memory, registers, credentials and
//! namespaces are read and checked, not restored. Of a socket its names, its peer, its messages and whether it is shut
//! down or listens are restored, not its options; sockets of which no file is made stay until PROGRAM ends.
//!
//! # The verdict
//!
//! `--verdict FILE`: when a restart is decided, and before its coordinator returns, FILE appears, whole:
//!
//! ```text
//! restarted
//! task 534 2101               a line per task, threads included, in the order of the image's tree: its pid there,
//! zombie 535                  which the restart program may have rewritten, and its pid now
//! note "dead file: …"         where the model could not do exactly what the kernel did
//! ```
//! or
//! ```text
//! failed EINVAL offset 1234 "Expecting to read type 302"
//! ```
//! with what the call returned, the bytes read by then (without those spliced into pipes), and the first complaint
//! of the kernel; or
//! ```text
//! unsupported-by-model "a security label"
//! ```
//! when the image has something that this model does not know. The tasks are dead then and the call returns
//! ENOSYS, but that is no statement about the kernel.
//!
//! `--log FILE`: the verdict of every restart, appended.

mod call;
mod descriptors;
mod hash;
mod image;
mod layout;
mod process;
mod real_sockets;
mod restart;
mod sockets;
mod terminals;
mod tracer;
mod verdict;

use std::ffi::{CString, OsString};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::exit;

use libc::pid_t;

use call::{Call, TASKSELF};
use restart::{Request, Restart};
use tracer::Tracer;
use verdict::{Ending, Verdict};

const USAGE: &str =
    "usage: restart-model [--nr N]... [--verdict FILE] [--log FILE] -- PROGRAM ARGUMENTS...";
/// v20, v23-rc2 and the port to 3.0.
const NUMBERS: [u32; 3] = [302, 305, 314];

struct Options {
    numbers: Vec<u32>,
    verdict: Option<PathBuf>,
    log: Option<PathBuf>,
    program: Vec<CString>,
}

fn main() {
    let Some(options) = parse(std::env::args_os().skip(1)) else {
        eprintln!("{USAGE}");
        exit(2);
    };
    let mut tracer = match Tracer::spawn(&options.program, options.numbers.clone()) {
        Ok(tracer) => tracer,
        Err(error) => {
            eprintln!("restart-model: cannot trace: {error}");
            exit(125);
        }
    };
    while tracer.ended().is_none() {
        tracer.pump(None, -1);
        while let Some((tid, call)) = tracer.next_coordinator() {
            serve(&mut tracer, tid, &call, &options);
        }
    }
    // Nobody is left to finish a restart for those that wait for one.
    let waiting: Vec<pid_t> = tracer.parked().into_iter().map(|(tid, _)| tid).collect();
    tracer.kill(&waiting);
    exit(tracer.ended().unwrap_or(125));
}

fn serve(tracer: &mut Tracer, tid: pid_t, call: &Call, options: &Options) {
    let Call::Coordinator {
        root,
        image,
        flags,
        log,
    } = *call
    else {
        return;
    };
    let image = match descriptors::take(tid, image) {
        Ok(image) => image,
        Err(_) => return tracer.return_from_call(tid, -i64::from(libc::EBADF)),
    };
    let log = descriptors::take(tid, log).ok();
    let (verdict, errno) = Restart::run(
        tracer,
        Request {
            coordinator: tid,
            root,
            flags,
        },
        image,
    );
    report(&verdict, log.as_ref(), options);
    let went_on_as_a_task = flags & TASKSELF != 0 && errno == 0;
    if !went_on_as_a_task && tracer.alive(tid) {
        tracer.return_from_call(tid, -i64::from(errno));
    }
}

fn report(verdict: &Verdict, kernel_log: Option<&OwnedFd>, options: &Options) {
    if let (Some(log), Ending::Failed { .. }) = (kernel_log, &verdict.ending) {
        restart::write_log(log, verdict);
    }
    let complain = |path: &PathBuf, error| eprintln!("restart-model: {}: {error}", path.display());
    if let Some(path) = &options.verdict
        && let Err(error) = verdict.write(path)
    {
        complain(path, error);
    }
    if let Some(path) = &options.log {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path);
        if let Err(error) = file.and_then(|mut file| file.write_all(verdict.text().as_bytes())) {
            complain(path, error);
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Options> {
    let mut options = Options {
        numbers: Vec::new(),
        verdict: None,
        log: None,
        program: Vec::new(),
    };
    loop {
        let argument = arguments.next()?;
        match argument.to_str()? {
            "--nr" => options
                .numbers
                .push(arguments.next()?.to_str()?.parse().ok()?),
            "--verdict" => options.verdict = Some(arguments.next()?.into()),
            "--log" => options.log = Some(arguments.next()?.into()),
            "--" => break,
            _ => return None,
        }
    }
    if options.numbers.is_empty() {
        options.numbers.extend(NUMBERS);
    }
    for argument in arguments {
        options
            .program
            .push(CString::new(argument.into_vec()).ok()?);
    }
    (!options.program.is_empty()).then_some(options)
}
