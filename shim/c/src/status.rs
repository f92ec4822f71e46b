//! [`cradvise::status`] for C.

use cradvise::{Backend, Reason, Status};
use std::ffi::c_int;
use std::io::{self, Write};

/// Nobody keeps the advice.
pub const CR_BACKEND_NONE: u32 = 0;
/// [`Backend::Table`].
pub const CR_BACKEND_TABLE: u32 = 1;
/// [`Backend::Kernel`].
pub const CR_BACKEND_KERNEL: u32 = 2;

/// [`Reason::NotConfigured`].
pub const CR_REASON_NOT_CONFIGURED: u32 = 0;
/// [`Reason::Configured`].
pub const CR_REASON_CONFIGURED: u32 = 1;
/// [`Reason::NoSuchCall`].
pub const CR_REASON_NO_SUCH_CALL: u32 = 2;
/// [`Reason::Forced`].
pub const CR_REASON_FORCED: u32 = 3;
/// [`Reason::BadVariable`].
pub const CR_REASON_BAD_VARIABLE: u32 = 4;

/// `struct cradvise_status`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CStatus {
    /// One of `CR_BACKEND_`.
    pub backend: u32,
    /// One of `CR_REASON_`.
    pub reason: u32,
    /// The errno of every call where nobody keeps the advice; or 0.
    pub error: i32,
    /// The number of the system call; -1 where none is configured.
    pub number: i32,
    /// The same in words.
    pub text: [u8; 240],
}

impl From<Status> for CStatus {
    fn from(status: Status) -> Self {
        let (backend, mut number, error) = match status.backend {
            Backend::Kernel(number) => (CR_BACKEND_KERNEL, number, 0),
            Backend::Table => (CR_BACKEND_TABLE, -1, 0),
            Backend::Nobody(error) => (CR_BACKEND_NONE, -1, error.errno()),
        };
        let reason = match status.reason {
            Reason::NotConfigured => CR_REASON_NOT_CONFIGURED,
            Reason::Configured => CR_REASON_CONFIGURED,
            Reason::NoSuchCall(missing) => {
                number = missing;
                CR_REASON_NO_SUCH_CALL
            }
            Reason::Forced => CR_REASON_FORCED,
            Reason::BadVariable => CR_REASON_BAD_VARIABLE,
        };
        let mut text = [0; 240];
        // What does not fit is left out; the last byte stays zero.
        let _ = write!(&mut text[..239], "{status}");
        CStatus {
            backend,
            reason,
            error,
            // It was read as an int.
            number: i32::try_from(number).unwrap_or(-1),
            text,
        }
    }
}

/// [`cradvise::status`], into a structure of the caller's.
///
/// # Safety
/// `status` is NULL, or `size` bytes may be written there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cradvise_status(status: *mut CStatus, size: usize) -> c_int {
    crate::answer(|| {
        if status.is_null() {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        if size < size_of::<CStatus>() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let told = CStatus::from(cradvise::status());
        // SAFETY: the caller's promise; the size was compared, and bytes need no alignment.
        unsafe {
            status.cast::<u8>().write_bytes(0, size);
            status.write_unaligned(told);
        }
        Ok(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_structure_is_zero_at_its_end() {
        let mut larger = [0xff_u8; size_of::<CStatus>() + 9];
        // SAFETY: the size is right.
        let answer = unsafe { cradvise_status(larger.as_mut_ptr().cast(), larger.len() - 1) };
        assert_eq!(answer, 0);
        assert_eq!(
            larger[size_of::<CStatus>()..],
            [0, 0, 0, 0, 0, 0, 0, 0, 0xff]
        );
    }

    #[test]
    fn what_is_too_small_is_left_alone() {
        let mut small = [0xff_u8; size_of::<CStatus>() - 1];
        // SAFETY: the size is right.
        let answer = unsafe { cradvise_status(small.as_mut_ptr().cast(), small.len()) };
        let errno = io::Error::last_os_error().raw_os_error();
        assert_eq!((answer, errno), (-1, Some(libc::EINVAL)));
        assert!(small.iter().all(|byte| *byte == 0xff));
        // SAFETY: NULL.
        let answer = unsafe { cradvise_status(std::ptr::null_mut(), usize::MAX) };
        let errno = io::Error::last_os_error().raw_os_error();
        assert_eq!((answer, errno), (-1, Some(libc::EFAULT)));
    }

    #[test]
    fn every_status_has_its_numbers_and_its_words() {
        let bad = cradvise::Error::Variable("CRADVISE_NR");
        for (backend, reason, numbers, text) in [
            (
                Backend::Kernel(500),
                Reason::Configured,
                (CR_BACKEND_KERNEL, CR_REASON_CONFIGURED, 0, 500),
                "kernel, call 500: CRADVISE_NR is set",
            ),
            (
                Backend::Table,
                Reason::NoSuchCall(500),
                (CR_BACKEND_TABLE, CR_REASON_NO_SUCH_CALL, 0, 500),
                "userspace table: CRADVISE_NR=500, and that call answers ENOSYS",
            ),
            (
                Backend::Nobody(bad),
                Reason::BadVariable,
                (CR_BACKEND_NONE, CR_REASON_BAD_VARIABLE, libc::EINVAL, -1),
                "none: CRADVISE_NR is not the number of a system call: correct it or unset it",
            ),
        ] {
            let told = CStatus::from(Status { backend, reason });
            let found = (told.backend, told.reason, told.error, told.number);
            assert_eq!(found, numbers);
            let (words, rest) = told.text.split_at(text.len());
            assert_eq!(words, text.as_bytes());
            assert!(!rest.is_empty() && rest.iter().all(|byte| *byte == 0));
        }
    }
}
