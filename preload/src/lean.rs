//! Hooks for calls that programs make all the time: while there is nothing to do
//! they cost a look at two flags and a jump to the real function.
//!
//! redhook's hooks look behind a lock and guard against a panic at every call, which
//! costs some 30 ns; these do only when there is something to do.

use ckpt_restart::errno;
use libc::c_long;
use std::ffi::{CStr, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// The real function of a name.
pub struct Real {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Real {
    /// To be looked up.
    pub const fn new(name: &'static CStr) -> Self {
        Real {
            name,
            address: AtomicPtr::new(null_mut()),
        }
    }

    /// Its address. Looked up at the start, or here where a constructor that runs
    /// before makes the call.
    #[inline]
    pub fn get(&self) -> *mut c_void {
        match self.address.load(Relaxed) {
            address if !address.is_null() => address,
            _ => self.look_up(),
        }
    }

    #[cold]
    fn look_up(&self) -> *mut c_void {
        // SAFETY: the name is NUL-terminated.
        let mut address = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        if address.is_null() {
            // An older libc: nobody was linked with the name, and no program shall be told.
            // SAFETY: takes nothing, and gives a string that is not looked at.
            unsafe { libc::dlerror() };
            address = missing as *mut c_void;
        }
        self.address.store(address, Relaxed);
        address
    }
}

extern "C" fn missing() -> c_long {
    errno::set(libc::ENOSYS);
    -1
}

/// Defines hooks: the function, and what it does where it is not `quiet` with `real`,
/// the real function. Where that panics, the real call is made instead.
#[macro_export]
macro_rules! lean_hooks {
    ($(
        fn $name:ident($($v:ident: $t:ty),*) -> $r:ty, quiet $quiet:expr, |$real:ident| $body:expr;
    )*) => {
        $(
            mod $name {
                use std::ffi::CStr;
                const NAME: &str = concat!(stringify!($name), "\0");
                pub static REAL: $crate::lean::Real = $crate::lean::Real::new(
                    match CStr::from_bytes_with_nul(NAME.as_bytes()) {
                        Ok(name) => name,
                        Err(_) => unreachable!(),
                    }
                );
            }

            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($v: $t),*) -> $r {
                let $real: unsafe extern "C" fn($($t),*) -> $r =
                    unsafe { std::mem::transmute($name::REAL.get()) };
                if $quiet {
                    return unsafe { $real($($v),*) };
                }
                let hook = std::panic::AssertUnwindSafe(|| $body);
                std::panic::catch_unwind(hook).unwrap_or_else(|_| unsafe { $real($($v),*) })
            }
        )*

        /// Looks the real functions up.
        fn resolve_lean() {
            $( $name::REAL.get(); )*
        }
    };
}
