//! A kernel with the proposed call, played by a thread of the calling process
//! through seccomp user notification: calls with its number stop at the true
//! system call boundary until the thread has answered.
//!
//! It knows one process and its one file table, and nothing of close or fork.

use std::collections::BTreeMap;
use std::sync::mpsc;

/// A number that no kernel has a call for.
pub const NUMBER: i64 = 10000;

/// From now on the calling thread, and those that it starts, have the call.
pub fn install() {
    let (to_thread, from_here) = mpsc::channel();
    // Started before the filter, so that it is not under it.
    std::thread::spawn(move || serve(from_here.recv().unwrap()));
    let statement = |code: u32, k: u32, jt, jf| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            NUMBER as u32,
            0,
            1,
        ),
        statement(libc::BPF_RET, libc::SECCOMP_RET_USER_NOTIF, 0, 0),
        statement(libc::BPF_RET, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program is four statements that live until the call is over.
    let listener = unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &program,
        )
    };
    assert!(listener >= 0, "{}", std::io::Error::last_os_error());
    to_thread.send(listener as i32).unwrap();
}

fn serve(listener: i32) {
    let mut marks = BTreeMap::new();
    loop {
        // SAFETY: plain integers; the kernel wants zeros.
        let mut request: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: writes one request where it is told to.
        if unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &mut request) } != 0 {
            return;
        }
        let [fd, advice, op, ..] = request.data.args.map(|argument| argument as i32);
        let answer = cradvise(&mut marks, fd, advice, op);
        let response = libc::seccomp_notif_resp {
            id: request.id,
            val: answer.unwrap_or(0).into(),
            error: answer.err().map_or(0, |errno| -errno),
            flags: 0,
        };
        // SAFETY: reads one response.
        unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &response) };
    }
}

fn cradvise(marks: &mut BTreeMap<i32, i32>, fd: i32, advice: i32, op: i32) -> Result<i32, i32> {
    // SAFETY: reads a flag of a descriptor, if there is one.
    let open = || unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
    match op {
        0 if advice & !3 != 0 => Err(libc::EINVAL),
        0 | 1 if fd < 0 => Err(libc::EBADF),
        0 if advice & 1 != 0 && !open() => Err(libc::EBADF),
        0 => {
            marks.insert(fd, advice);
            Ok(0)
        }
        1 => Ok(marks.get(&fd).copied().unwrap_or(0)),
        2 => {
            marks.clear();
            Ok(0)
        }
        _ => Err(libc::EINVAL),
    }
}
