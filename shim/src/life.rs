//! Before main, what cannot be looked up later; and in the end, what nobody could take back.
//!
//! getenv(3) in a signal handler could meet a setenv(3) half done, and dlsym(3) may use
//! the heap; before main there is no handler. Constructors that run earlier than this one
//! look for themselves.

use crate::{backend, environment};

// SAFETY: the entries of .init_array are functions of this type.
#[unsafe(link_section = ".init_array")]
#[used]
static AT_START: extern "C" fn() = {
    extern "C" fn start() {
        environment::read();
        backend::settle();
    }
    start
};

// SAFETY: the entries of .fini_array are functions of this type.
#[unsafe(link_section = ".fini_array")]
#[used]
static AT_END: extern "C" fn() = {
    extern "C" fn end() {
        backend::leave();
    }
    end
};
