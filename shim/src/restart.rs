//! The restart call of Linux-CR, with this process's advice applied.
#![forbid(unsafe_code)]

use crate::environment::CKPT_RESTART_NR;
use crate::{Error, advice, backend, sys};
use ckpt_image::advice::{Action, Advice, Item, Target};
use ckpt_restart::call::{self, Shape};
use ckpt_restart::request::{self, Naming, Request, Sources};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

const RESTART_TASKSELF: u64 = 1;

/// Restarts the tasks of a Linux-CR image, or joins such a restart, with the
/// advice of this process applied.
///
/// * `pid`: the image's root task to be, a child of the calling thread, or the
///   caller itself under RESTART_TASKSELF; 0 in a task that is to be restarted.
/// * `image_fd`: where the image is read from. Not used where `pid` is 0.
/// * `flags`: RESTART_TASKSELF 1, RESTART_FROZEN 2, RESTART_GHOST 4,
///   RESTART_KEEP_LSM 8, RESTART_CONN_RESET 16.
/// * `log_fd`: where the kernel reports problems, or -1.
///
/// Returns what the call returns: to the coordinator 0. A task that is restarted
/// does not come back from the call.
///
/// The call has no number of its own on current kernels, where those that
/// Linux-CR kernels used mean other calls. It is made only with the number that
/// the environment variable CKPT_RESTART_NR gives.
///
/// # Errors
/// * ENOSYS: CKPT_RESTART_NR is not set.
/// * EINVAL: CKPT_RESTART_NR is not a number, or as for [`crate::cradvise`].
/// * EBADF: `image_fd` is not open for reading; or a descriptor to preserve is not below
///   RLIMIT_NOFILE.
/// * ESTALE: as for [`advice`].
/// * EEXIST: a descriptor is advised CR_ADV_PRESERVE alone, and a task of the
///   image has that number.
/// * EACCES: a descriptor to preserve lacks an access that the number needs.
/// * ENOTSUP: the engine cannot do it: a file that cannot be opened by name, or
///   a descriptor of a kind that cannot be edited.
/// * EINVAL: the image is malformed.
/// * What the kernel answers.
///
/// Source: include/linux/checkpoint.h and kernel/checkpoint/sys.c of Linux-CR.
///
/// ```
/// let refused = cradvise::restart(0, -1, 0, -1).unwrap_err();
/// assert_eq!(refused.raw_os_error(), Some(libc::ENOSYS));
/// ```
pub fn restart(pid: libc::pid_t, image_fd: RawFd, flags: u64, log_fd: RawFd) -> io::Result<i64> {
    let name = CKPT_RESTART_NR.name();
    let number = CKPT_RESTART_NR.get()?.ok_or(Error::NoCall(name))?;
    let call = |image_fd: RawFd| {
        let arguments = [pid.into(), image_fd.into(), flags as i64, log_fd.into()];
        sys::call(number, arguments).map_err(Error::Kernel)
    };
    if pid == 0 {
        return Ok(call(image_fd)?);
    }
    let image = sys::readable(image_fd).map_err(Error::Kernel)?;
    // A library that is loaded knows the table, and carries it out at the call.
    if backend::current().is_watched() {
        return Ok(call(image_fd)?);
    }
    let items = advice()?;
    if items.is_empty() {
        return Ok(call(image_fd)?);
    }
    let shape = match flags & RESTART_TASKSELF != 0 {
        true => Shape::Itself(image_fd),
        false => Shape::Coordinator {
            root: pid,
            image: image_fd,
        },
    };
    Ok(carry(items, image, shape, call)?)
}

/// Makes the call with a descriptor from which the rewritten image comes.
fn carry(
    items: Vec<Item>,
    image: BorrowedFd<'_>,
    shape: Shape,
    call: impl Fn(RawFd) -> Result<i64, Error>,
) -> Result<i64, Error> {
    let refused = |error: ckpt_restart::Error| Error::Refused(error.errno());
    let sources: Sources = items
        .iter()
        .filter(|item| item.action != Action::Ignore)
        .filter_map(|item| match item.target {
            Target::Number(number) => Some((number, number)),
            _ => None,
        })
        .collect();
    let advice = Advice {
        items,
        ..Advice::default()
    };
    let mut request =
        Request::new(&advice, sources, Naming::Had, Some(image.as_raw_fd())).map_err(refused)?;
    if let Some(start) = request::regular_at(image) {
        request.check(image, start).map_err(refused)?;
    }
    // The call through libc leaves its errno behind.
    let real = |fd: i32| call(fd).unwrap_or(-1);
    match call::carry(&request, shape, false, &real).map_err(refused)? {
        -1 => Err(Error::Kernel(sys::errno())),
        result => Ok(result),
    }
}
