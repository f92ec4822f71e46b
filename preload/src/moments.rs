//! The two moments at which the library acts by itself: before main, and at exit.

use crate::state::{self, State};
use ckpt_restart::settings::Settings;
use ckpt_restart::{caller, log};
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
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 || !strings(envp).any(is_ours) {
        return;
    }
    let environment = strings(envp).filter_map(|entry| {
        let entry = entry.to_bytes();
        let equals = entry.iter().position(|&b| b == b'=')?;
        Some((entry[..equals].to_vec(), entry[equals + 1..].to_vec()))
    });
    let settings = Settings::read(environment, caller::descriptor_limit());
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
    if let Some(state) = state::keep(state)
        && !crate::criu::start(state)
    {
        crate::linux_cr::start(state);
    }
}

/// Runs at exit(3).
extern "C" fn end() {
    if let Some(state) = state::state() {
        crate::linux_cr::end(state);
        crate::criu::end(state);
    }
}

fn is_ours(entry: &CStr) -> bool {
    entry.to_bytes().starts_with(b"CKPT_")
}

/// The strings of a NULL-terminated array, as exec(2) makes them.
fn strings(array: *const *const c_char) -> impl Iterator<Item = &'static CStr> {
    let mut next = array;
    std::iter::from_fn(move || {
        if next.is_null() {
            return None;
        }
        // SAFETY: argv and envp end in a NULL, after which nothing is read, and
        // live as long as the process.
        unsafe {
            let string = *next;
            if string.is_null() {
                return None;
            }
            next = next.add(1);
            Some(CStr::from_ptr(string))
        }
    })
}
