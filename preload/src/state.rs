//! What the process was started with.

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

static ACTIVE: AtomicBool = AtomicBool::new(false);
static STATE: OnceCell<State> = OnceCell::new();

/// The state, where a CKPT_ variable is set; `None` and next to no cost where
/// none is.
pub fn state() -> Option<&'static State> {
    if !ACTIVE.load(Ordering::Relaxed) {
        return None;
    }
    STATE.get()
}

/// Keeps the state, from now on to be found; once.
pub fn keep(state: State) -> Option<&'static State> {
    STATE.set(state).ok()?;
    ACTIVE.store(true, Ordering::Release);
    STATE.get()
}
