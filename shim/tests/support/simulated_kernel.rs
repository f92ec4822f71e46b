//! A kernel with the proposed call, played by a thread of the calling process through seccomp user notification:
//! calls with its number stop at the true system call boundary until the thread has answered. So do those that a
//! kernel would keep the marks exact by (close, dup2, fork, execve and their kin), which then go on as they are.
//!
//! It knows the calling process and those that come of it, each with a file table of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc;

/// A number that no kernel has a call for.
pub const NUMBER: i64 = 10000;
/// The call as it was proposed first, without op 3.
#[allow(dead_code, reason = "not every test has both")]
pub const NUMBER_WITHOUT_LIST: i64 = 10001;

const WATCHED: [i64; 11] = [
    NUMBER,
    NUMBER_WITHOUT_LIST,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup2,
    libc::SYS_dup3,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_execve,
];

const CONTINUE: u32 = 1;
const PRESERVE: i32 = 1;
const IGNORE: i32 = 2;

/// From now on the calling thread, those that it starts, and processes that come of them have the call.
pub fn install() {
    let (to_thread, from_here) = mpsc::channel();
    // Started before the filter, so that it is not under it.
    std::thread::spawn(move || Kernel::default().serve(from_here.recv().unwrap()));
    let statement = |code: u32, k: u32, jt, jf| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut filter = vec![statement(
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        0,
        0,
        0,
    )];
    for number in WATCHED {
        filter.push(statement(equal, number as u32, 0, 1));
        filter.push(statement(libc::BPF_RET, libc::SECCOMP_RET_USER_NOTIF, 0, 0));
    }
    filter.push(statement(libc::BPF_RET, libc::SECCOMP_RET_ALLOW, 0, 0));
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program's statements live until the call is over.
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

/// The advice of one file table.
type Marks = BTreeMap<i32, i32>;

#[derive(Default)]
struct Kernel {
    processes: BTreeMap<i32, Marks>,
}

/// A process that made a call.
struct Caller {
    pid: i32,
    parent: i32,
}

impl Caller {
    /// By the number of a thread of it.
    fn of(thread: u32) -> Caller {
        let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse().ok())
                .unwrap_or(0)
        };
        Caller {
            pid: field("Tgid:"),
            parent: field("PPid:"),
        }
    }

    fn file(&self, kind: &str, fd: i32) -> PathBuf {
        format!("/proc/{}/{kind}/{fd}", self.pid).into()
    }

    fn has_open(&self, fd: i32) -> bool {
        self.file("fd", fd).symlink_metadata().is_ok()
    }

    fn closes_on_exec(&self, fd: i32) -> bool {
        let info = std::fs::read_to_string(self.file("fdinfo", fd)).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        flags.is_none_or(|flags| flags & libc::O_CLOEXEC != 0)
    }
}

impl Kernel {
    fn serve(mut self, listener: i32) {
        loop {
            // SAFETY: plain integers; the kernel wants zeros.
            let mut request: libc::seccomp_notif = unsafe { std::mem::zeroed() };
            // SAFETY: writes one request where it is told to.
            if unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &mut request) } != 0 {
                continue;
            }
            let answer = self.call(&Caller::of(request.pid), &request.data);
            let response = libc::seccomp_notif_resp {
                id: request.id,
                val: answer.unwrap_or(Ok(0)).unwrap_or(0).into(),
                error: answer.and_then(Result::err).map_or(0, |errno| -errno),
                flags: if answer.is_some() { 0 } else { CONTINUE },
            };
            // SAFETY: reads one response.
            unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &response) };
        }
    }

    /// A child starts with what its parent has, which waits for it to be seen or has called nothing since.
    fn marks(&mut self, caller: &Caller) -> &mut Marks {
        let inherited = self.processes.get(&caller.parent).cloned();
        let marks = self.processes.entry(caller.pid);
        marks.or_insert_with(|| inherited.unwrap_or_default())
    }

    /// What the proposed call answers; `None` of every other, which goes on.
    fn call(&mut self, caller: &Caller, data: &libc::seccomp_data) -> Option<Result<i32, i32>> {
        let number = i64::from(data.nr);
        let [a, b, c, ..] = data.args.map(|argument| argument as i32);
        let marks = self.marks(caller);
        match number {
            NUMBER => return Some(cradvise(caller, marks, a, b, c)),
            NUMBER_WITHOUT_LIST if c == 3 => return Some(Err(libc::EINVAL)),
            NUMBER_WITHOUT_LIST => return Some(cradvise(caller, marks, a, b, c)),
            libc::SYS_close => closed(marks, a, a),
            libc::SYS_close_range if c & libc::CLOSE_RANGE_CLOEXEC as i32 == 0 => {
                let last = i32::try_from(b.cast_unsigned()).unwrap_or(i32::MAX);
                closed(marks, a, last);
            }
            libc::SYS_dup2 | libc::SYS_dup3 if a != b && caller.has_open(a) => closed(marks, b, b),
            libc::SYS_execve => marks.retain(|&fd, advice| {
                if *advice & PRESERVE != 0 && caller.closes_on_exec(fd) {
                    *advice &= IGNORE;
                }
                *advice != 0
            }),
            _ => {}
        }
        None
    }
}

fn closed(marks: &mut Marks, first: i32, last: i32) {
    for (fd, advice) in marks.iter_mut() {
        if (first..=last).contains(fd) {
            *advice &= IGNORE;
        }
    }
    marks.retain(|_, advice| *advice != 0);
}

fn cradvise(caller: &Caller, marks: &mut Marks, fd: i32, advice: i32, op: i32) -> Result<i32, i32> {
    match op {
        0 if advice & !(PRESERVE | IGNORE) != 0 => Err(libc::EINVAL),
        0 | 1 | 3 if fd < 0 => Err(libc::EBADF),
        0 if advice & PRESERVE != 0 && !caller.has_open(fd) => Err(libc::EBADF),
        0 => {
            marks.insert(fd, advice);
            marks.retain(|_, advice| *advice != 0);
            Ok(0)
        }
        1 => Ok(marks.get(&fd).copied().unwrap_or(0)),
        2 => {
            marks.clear();
            Ok(0)
        }
        3 => marks
            .range(fd..)
            .next()
            .map(|(&fd, _)| fd)
            .ok_or(libc::ENOENT),
        _ => Err(libc::EINVAL),
    }
}
