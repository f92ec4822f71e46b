//! What the process was started with.

use crate::table;
use ckpt_restart::log;
use ckpt_restart::settings::Settings;
use once_cell::sync::OnceCell;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the process was started with.
pub struct State {
    /// The CKPT_ variables.
    pub settings: Settings,
    /// The process that was started, as opposed to its forked children.
    pub pid: c_int,
    /// Its arguments, the program's name first.
    pub arguments: Vec<Vec<u8>>,
}

/// A variable of ours is set.
static ACTIVE: AtomicBool = AtomicBool::new(false);
/// The variables have been looked at.
static STARTED: AtomicBool = AtomicBool::new(false);
static STATE: OnceCell<State> = OnceCell::new();

/// Whether there is nothing to do: no variable is set, and no advice was ever given.
#[inline]
pub fn is_quiet() -> bool {
    !ACTIVE.load(Ordering::Relaxed) && !table::is_used()
}

/// The state, where a variable is set or advice was given; `None` and next to no
/// cost where neither is.
pub fn state() -> Option<&'static State> {
    if is_quiet() || !STARTED.load(Ordering::Acquire) {
        return None;
    }
    Some(STATE.get_or_init(|| {
        log::start(log::Level::Warn);
        State {
            settings: Settings::default(),
            // SAFETY: getpid takes nothing.
            pid: unsafe { libc::getpid() },
            arguments: Vec::new(),
        }
    }))
}

/// Keeps the state, from now on to be found; once.
pub fn keep(state: State) -> Option<&'static State> {
    STATE.set(state).ok()?;
    ACTIVE.store(true, Ordering::Release);
    STATE.get()
}

/// From now on advice alone makes a state.
pub fn started() {
    STARTED.store(true, Ordering::Release);
}
