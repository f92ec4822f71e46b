//! The two moments at which the library acts by itself: before main, and at exit.

use crate::environment::{self, strings};
use crate::exec;
use crate::state::{self, State};
use ckpt_restart::settings::Settings;
use ckpt_restart::{caller, handshake, log};
use cradvise::upkeep;
use std::ffi::{CStr, c_char, c_int};

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = start;

#[used]
#[unsafe(link_section = ".fini_array")]
static END: extern "C" fn() = end;

/// glibc hands constructors the arguments and the environment.
extern "C" fn start(argc: c_int, argv: *const *const c_char, envp: *const *const c_char) {
    crate::hooks::resolve();
    // SAFETY: getauxval takes an integer and reads the auxiliary vector.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return;
    }
    // A criu obeys what programs say of themselves, without a variable of ours.
    if strings(envp).any(is_ours) || crate::criu::is_criu() {
        begin(argc, argv, envp);
    }
    state::started();
}

fn begin(argc: c_int, argv: *const *const c_char, envp: *const *const c_char) {
    let ours = strings(envp).filter(|entry| is_ours(entry));
    let environment = ours.filter_map(|entry| {
        let entry = entry.to_bytes();
        let equals = entry.iter().position(|&b| b == b'=')?;
        Some((entry[..equals].to_vec(), entry[equals + 1..].to_vec()))
    });
    let mut settings = Settings::read(environment, caller::descriptor_limit());
    if let Err(mistake) = adopt_table(envp) {
        settings.mistake.get_or_insert(mistake);
    }
    log::start(settings.log.unwrap_or(log::Level::Warn));
    let count = usize::try_from(argc).unwrap_or(0);
    let state = State {
        settings,
        // SAFETY: getpid takes nothing.
        pid: unsafe { libc::getpid() },
        arguments: strings(argv)
            .take(count)
            .map(|a| a.to_bytes().to_vec())
            .collect(),
    };
    if let Some(address) = state.settings.run {
        handshake::start(address, state.arguments.first().map_or(b"", Vec::as_slice));
    }
    state::started();
    let Some(state) = state::keep(state) else {
        return;
    };
    if crate::criu::is_criu() {
        // It starts iptables, and scripts. First: to set a variable is to leave this array.
        // SAFETY: there are no threads yet.
        unsafe { environment::leave_preload(envp) };
        crate::criu::start(state);
    } else {
        crate::linux_cr::start(state);
    }
}

/// Takes over the table of the program that made this one, and takes it out of the
/// environment: what this process advises from now on must not be found beside what
/// it was started with.
fn adopt_table(envp: *const *const c_char) -> Result<(), ckpt_image::Error> {
    let Some(index) = strings(envp).position(exec::is_table) else {
        return Ok(());
    };
    let value = strings(envp)
        .nth(index)
        .and_then(exec::value_of_table)
        .unwrap_or_default();
    let adopted = value.is_empty() || upkeep::read(value);
    let mistake = || ckpt_image::Error::Syntax {
        variable: upkeep::CRADVISE_TABLE.to_owned(),
        item: String::from_utf8_lossy(value).into_owned(),
        column: 1,
        reason: "expected what this version of the library writes: unset it".to_owned(),
    };
    let result = if adopted { Ok(()) } else { Err(mistake()) };
    // SAFETY: it is there, and there are no threads yet.
    unsafe { environment::remove(envp, index) };
    result
}

/// Runs at exit(3).
extern "C" fn end() {
    if let Some(state) = state::state() {
        crate::linux_cr::end();
        crate::criu::end(state);
    }
}

/// CRADVISE_NR is one of them: a kernel may have advice that this process never gave.
fn is_ours(entry: &CStr) -> bool {
    let entry = entry.to_bytes();
    entry.starts_with(b"CKPT_") || entry.starts_with(b"CRADVISE_")
}
