//! What the process was started with.

use crate::table;
use ckpt_restart::settings::Settings;
use ckpt_restart::{errno, log};
use once_cell::sync::OnceCell;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the process was started with.
pub struct State {
    /// The CKPT_ variables.
    pub settings: Settings,
    /// Its pid where a variable is set, as opposed to those of its forked children.
    pub pid: c_int,
    /// Its arguments then, the program's name first.
    pub arguments: Vec<Vec<u8>>,
}

/// A variable of ours is set.
static ACTIVE: AtomicBool = AtomicBool::new(false);
/// The variables have been looked at.
static STARTED: AtomicBool = AtomicBool::new(false);
/// Set before main or never: whoever waits for another to fill it later may be a signal
/// handler in that one's way, or a forked child without it.
static STATE: OnceCell<State> = OnceCell::new();
/// Where there is only advice of cradvise(2): not made, but there.
static UNTOLD: State = State {
    settings: Settings::NONE,
    pid: 0,
    arguments: Vec::new(),
};
/// Messages go to what standard error is.
static SPEAKS: AtomicBool = AtomicBool::new(false);

/// Whether there is nothing to do: no variable is set, and no advice was ever given.
#[inline]
pub fn is_quiet() -> bool {
    !ACTIVE.load(Ordering::Relaxed) && !table::is_used()
}

/// The state, where a variable is set or advice was given; `None` and next to no
/// cost where neither is. Waits for nobody.
pub fn state() -> Option<&'static State> {
    if is_quiet() || !STARTED.load(Ordering::Acquire) {
        return None;
    }
    if let state @ Some(_) = STATE.get() {
        return state;
    }
    if !SPEAKS.load(Ordering::Acquire) {
        // Who comes meanwhile does the same.
        errno::keeping(|| log::start(log::Level::Warn));
        SPEAKS.store(true, Ordering::Release);
    }
    Some(&UNTOLD)
}

/// Keeps the state, from now on to be found; once, before main.
pub fn keep(state: State) -> Option<&'static State> {
    STATE.set(state).ok()?;
    ACTIVE.store(true, Ordering::Release);
    STATE.get()
}

/// From now on advice alone makes a state.
pub fn started() {
    STARTED.store(true, Ordering::Release);
}
