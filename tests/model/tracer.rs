//! Tracing the program and everything it starts, and acting on behalf of a task that sits in a restart call.
//!
//! A seccomp filter stops a task only at the restart numbers, so everything else runs at full speed. A stopped
//! task is made to do system calls by setting its registers at the `syscall` instruction it came from; no code
//! of ours runs in it.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{null, null_mut};

use libc::{c_int, c_long, c_void, pid_t, user_regs_struct};

use crate::call::Call;
use crate::process::Status;

/// The task is gone, killed from outside or by something that it was made to do.
pub struct Gone;

const SCRATCH_SIZE: u64 = 4 * 4096;
const PTRACE_GETSIGMASK: libc::c_uint = 0x420a;
const PTRACE_SETSIGMASK: libc::c_uint = 0x420b;
const SCRATCH_DATA: u64 = 4096;
/// What a tracer sees of a system call that a signal interrupted.
const RESTARTING: std::ops::RangeInclusive<i64> = -516..=-512;

enum State {
    Running,
    /// Sits in a restart call, not acted on yet.
    Called(Call),
    Held(Box<Held>),
}

struct Held {
    home: user_regs_struct,
    /// Still at the entry of the restart call, which has then to be replaced, not repeated.
    at_entry: bool,
    stop: Option<c_int>,
    scratch: u64,
    /// The signals that it blocks by itself; while it is held, all are.
    mask: u64,
}

/// All tasks under the program, and the door to each of them.
pub struct Tracer {
    tracees: HashMap<pid_t, State>,
    signals: OwnedFd,
    program: pid_t,
    ended: Option<c_int>,
    numbers: Vec<u32>,
    coordinators: Vec<pid_t>,
}

impl Tracer {
    /// Starts `program` under a filter for the system calls `numbers`.
    pub fn spawn(program: &[CString], numbers: Vec<u32>) -> io::Result<Self> {
        let mut gate = [0; 2];
        let mut forwarded = empty_set();
        for signal in [
            libc::SIGCHLD,
            libc::SIGTERM,
            libc::SIGINT,
            libc::SIGHUP,
            libc::SIGQUIT,
            libc::SIGUSR1,
            libc::SIGUSR2,
        ] {
            // SAFETY: an initialised set and a valid signal.
            unsafe { libc::sigaddset(&mut forwarded, signal) };
        }
        let mut before = empty_set();
        // SAFETY: valid pointers to sets and to room for two descriptors; fork in a process of one thread.
        let pid = unsafe {
            check(libc::pipe2(gate.as_mut_ptr(), libc::O_CLOEXEC))?;
            check(libc::sigprocmask(libc::SIG_BLOCK, &forwarded, &mut before))?;
            check(libc::fork())?
        };
        if pid == 0 {
            let error = become_program(program, &numbers, gate, &before);
            eprintln!("restart-model: {}: {error}", program[0].to_string_lossy());
            // SAFETY: ends the child without running the parent's destructors.
            unsafe { libc::_exit(127) };
        }
        // SAFETY: descriptors just made, owned by nobody else; a valid set.
        let (signals, gate) = unsafe {
            libc::close(gate[0]);
            let signals = check(libc::signalfd(
                -1,
                &forwarded,
                libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
            ))?;
            (OwnedFd::from_raw_fd(signals), OwnedFd::from_raw_fd(gate[1]))
        };
        let options = libc::PTRACE_O_TRACESYSGOOD
            | libc::PTRACE_O_TRACECLONE
            | libc::PTRACE_O_TRACEFORK
            | libc::PTRACE_O_TRACEVFORK
            | libc::PTRACE_O_TRACEEXEC
            | libc::PTRACE_O_TRACESECCOMP;
        ptrace(libc::PTRACE_SEIZE, pid, 0, options as u64)?;
        drop(gate);
        raise_descriptor_limit();
        let tracees = HashMap::from([(pid, State::Running)]);
        Ok(Self {
            tracees,
            signals,
            program: pid,
            ended: None,
            numbers,
            coordinators: Vec::new(),
        })
    }

    /// The exit status of the program, as a shell would report it, once it has ended.
    pub fn ended(&self) -> Option<c_int> {
        self.ended
    }

    /// The next coordinator that waits for its call to be served.
    pub fn next_coordinator(&mut self) -> Option<(pid_t, Call)> {
        while let Some(tid) = self.coordinators.pop() {
            if let Some(State::Called(call)) = self.tracees.get(&tid) {
                return Some((tid, call.clone()));
            }
        }
        None
    }

    /// Tasks that sit in a restart call of their own, ghosts or not.
    pub fn parked(&self) -> Vec<(pid_t, Call)> {
        let parked = self.tracees.iter().filter_map(|(&tid, state)| match state {
            State::Called(call) if !call.is_coordinator() => Some((tid, call.clone())),
            _ => None,
        });
        parked.collect()
    }

    /// Every task that is alive.
    pub fn tasks(&self) -> Vec<pid_t> {
        self.tracees.keys().copied().collect()
    }

    /// Whether the task still exists.
    pub fn alive(&self, tid: pid_t) -> bool {
        self.tracees.contains_key(&tid)
    }

    /// Handles what happened, waiting for it up to `timeout` milliseconds or until `watch` can be read.
    /// True if `watch` can be.
    pub fn pump(&mut self, watch: Option<&OwnedFd>, timeout: c_int) -> bool {
        if self.collect() {
            return false;
        }
        let mut polled = [
            libc::pollfd {
                fd: self.signals.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            },
            libc::pollfd {
                fd: watch.map_or(-1, |fd| fd.as_raw_fd()),
                events: libc::POLLIN,
                revents: 0,
            },
        ];
        // SAFETY: an array of two entries.
        unsafe { libc::poll(polled.as_mut_ptr(), 2, timeout) };
        if polled[0].revents != 0 {
            self.forward_signals();
            self.collect();
        }
        polled[1].revents != 0
    }

    /// Waits until no other task is about to run: on the one CPU of the kernel that this models, whoever writes
    /// the image runs only while restart(2) sleeps, and then until it sleeps itself.
    pub fn settle(&mut self) {
        for _ in 0..2000 {
            self.pump(None, 0);
            let busy = self.tracees.iter().any(|(tid, state)| {
                matches!(state, State::Running) && matches!(scheduler_state(*tid), Some('R' | 'D'))
            });
            if !busy {
                return;
            }
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
    }

    /// Whether a signal waits that would have woken the task, were it really asleep in its call.
    pub fn would_wake(&self, tid: pid_t) -> bool {
        let mask = match self.tracees.get(&tid) {
            Some(State::Held(held)) => held.mask,
            _ => 0,
        };
        Status::of(tid).is_some_and(|status| status.would_wake(mask))
    }

    /// Takes over a task that sits in a restart call.
    pub fn hold(&mut self, tid: pid_t) -> Result<(), Gone> {
        match self.tracees.get_mut(&tid) {
            Some(state @ State::Called(_)) => {
                let home = registers(tid)?;
                // Signals wait, as they do inside restart(2), and none is lost between two calls.
                let mask = swap_signal_mask(tid, u64::MAX)?;
                *state = State::Held(Box::new(Held {
                    home,
                    at_entry: true,
                    stop: None,
                    scratch: 0,
                    mask,
                }));
                Ok(())
            }
            Some(State::Held(_)) => Ok(()),
            _ => Err(Gone),
        }
    }

    /// Makes a held task do a system call; the result is as the kernel returns it, errors negative.
    /// `check` is asked while the call blocks and ends the wait by returning an error.
    pub fn inject<E: From<Gone>>(
        &mut self,
        tid: pid_t,
        number: c_long,
        arguments: &[u64],
        check: &mut dyn FnMut(&Tracer) -> Result<(), E>,
    ) -> Result<i64, E> {
        loop {
            let held = self.held(tid)?;
            let mut regs = held.home;
            if held.at_entry {
                regs.orig_rax = number as u64;
            } else {
                // The two bytes of the instruction that brought the task here.
                regs.rip -= 2;
                regs.rax = number as u64;
                regs.orig_rax = u64::MAX;
            }
            let argument = |i: usize| arguments.get(i).copied().unwrap_or(0);
            regs.rdi = argument(0);
            regs.rsi = argument(1);
            regs.rdx = argument(2);
            regs.r10 = argument(3);
            regs.r8 = argument(4);
            regs.r9 = argument(5);
            held.at_entry = false;
            set_registers(tid, &regs)?;
            loop {
                self.held(tid)?.stop = None;
                ptrace(libc::PTRACE_SYSCALL, tid, 0, 0).map_err(|_| Gone)?;
                while self.held(tid)?.stop.is_none() {
                    self.pump(None, 100);
                    check(self)?;
                }
                if at_syscall_exit(tid) {
                    break;
                }
            }
            let result = registers(tid)?.rax as i64;
            if !RESTARTING.contains(&result) {
                return Ok(result);
            }
        }
    }

    /// Puts bytes where the held task can pass them to a system call.
    pub fn put<E: From<Gone>>(&mut self, tid: pid_t, bytes: &[u8]) -> Result<u64, E> {
        let at = self.scratch::<E>(tid)? + SCRATCH_DATA;
        write_memory(tid, at, bytes).map_err(|_| Gone)?;
        Ok(at)
    }

    /// What a system call left where [`Tracer::put`] had put its arguments.
    pub fn get<E: From<Gone>>(&mut self, tid: pid_t, bytes: &mut [u8]) -> Result<(), E> {
        let at = self.scratch::<E>(tid)? + SCRATCH_DATA;
        read_memory(tid, at, bytes).map_err(|_| Gone.into())
    }

    /// The address of what [`Tracer::put`] puts.
    pub fn place<E: From<Gone>>(&mut self, tid: pid_t) -> Result<u64, E> {
        Ok(self.scratch::<E>(tid)? + SCRATCH_DATA)
    }

    /// Makes a held task ready to live on: it will sleep until a signal ends it.
    pub fn settle_down<E: From<Gone>>(&mut self, tid: pid_t) -> Result<(), E> {
        // mov eax, SYS_pause; syscall; jmp back
        const SLEEP: [u8; 9] = [0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
        let code = self.scratch::<E>(tid)?;
        write_memory(tid, code, &SLEEP).map_err(|_| Gone)?;
        let never = &mut |_: &Tracer| Ok(());
        let protection = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        self.inject::<E>(tid, libc::SYS_mprotect, &[code, 4096, protection], never)?;
        let never_with_its_parent = [libc::PR_SET_PDEATHSIG as u64, 0];
        self.inject::<E>(tid, libc::SYS_prctl, &never_with_its_parent, never)?;
        // 0 is SIG_DFL, no flags, an empty mask.
        let default = self.put::<E>(tid, &[0; 32])?;
        for signal in 1..=64 {
            self.inject::<E>(tid, libc::SYS_rt_sigaction, &[signal, default, 0, 8], never)?;
        }
        self.inject::<E>(
            tid,
            libc::SYS_rt_sigprocmask,
            &[libc::SIG_SETMASK as u64, default, 0, 8],
            never,
        )?;
        let mut regs = self.held(tid)?.home;
        regs.rip = code;
        regs.rax = 0;
        regs.orig_rax = u64::MAX;
        Ok(set_registers(tid, &regs)?)
    }

    /// Lets go of a task that is ready; signals that waited reach it now.
    pub fn let_go(&mut self, tid: pid_t) {
        self.tracees.remove(&tid);
        let _ = ptrace(libc::PTRACE_DETACH, tid, 0, 0);
    }

    /// Lets a task return from its restart call with this result.
    pub fn return_from_call(&mut self, tid: pid_t, result: i64) {
        let _ = self.try_return(tid, result);
    }

    fn try_return(&mut self, tid: pid_t, result: i64) -> Result<(), Gone> {
        self.hold(tid)?;
        let scratch = self.held(tid)?.scratch;
        if scratch != 0 {
            self.inject::<Gone>(tid, libc::SYS_munmap, &[scratch, SCRATCH_SIZE], &mut |_| {
                Ok(())
            })?;
        }
        let mut regs = self.held(tid)?.home;
        regs.rax = result as u64;
        regs.orig_rax = u64::MAX;
        swap_signal_mask(tid, self.held(tid)?.mask)?;
        set_registers(tid, &regs)?;
        self.tracees.insert(tid, State::Running);
        ptrace(libc::PTRACE_CONT, tid, 0, 0)
            .map_err(|_| Gone)
            .map(drop)
    }

    /// Kills tasks and waits until they are gone.
    pub fn kill(&mut self, tids: &[pid_t]) {
        for &tid in tids {
            if self.alive(tid) {
                // SAFETY: no memory is involved; a traced task keeps its number until it was waited for.
                unsafe { libc::syscall(libc::SYS_tkill, tid, libc::SIGKILL) };
            }
        }
        for _ in 0..100 {
            if !tids.iter().any(|&tid| self.alive(tid)) {
                return;
            }
            self.pump(None, 20);
        }
    }

    fn held(&mut self, tid: pid_t) -> Result<&mut Held, Gone> {
        match self.tracees.get_mut(&tid) {
            Some(State::Held(held)) => Ok(held),
            _ => Err(Gone),
        }
    }

    fn scratch<E: From<Gone>>(&mut self, tid: pid_t) -> Result<u64, E> {
        if self.held(tid)?.scratch == 0 {
            let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
            let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
            let arguments = [0, SCRATCH_SIZE, protection, flags, u64::MAX, 0];
            let at = self.inject::<E>(tid, libc::SYS_mmap, &arguments, &mut |_| Ok(()))?;
            if at < 0 {
                return Err(Gone.into());
            }
            self.held(tid)?.scratch = at as u64;
        }
        Ok(self.held(tid)?.scratch)
    }

    /// Handles every event that waits; true if there was one.
    fn collect(&mut self) -> bool {
        let mut any = false;
        loop {
            let mut status = 0;
            // SAFETY: a valid place for the status.
            let tid = unsafe { libc::waitpid(-1, &mut status, libc::__WALL | libc::WNOHANG) };
            if tid <= 0 {
                return any;
            }
            any = true;
            self.handle(tid, status);
        }
    }

    fn handle(&mut self, tid: pid_t, status: c_int) {
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            self.tracees.remove(&tid);
            if tid == self.program {
                let killed = libc::WIFSIGNALED(status);
                self.ended = Some(if killed {
                    128 + libc::WTERMSIG(status)
                } else {
                    libc::WEXITSTATUS(status)
                });
            }
            return;
        }
        let signal = libc::WSTOPSIG(status);
        let event = status >> 16;
        match self.tracees.entry(tid).or_insert(State::Running) {
            State::Held(held) => {
                held.stop = Some(status);
                return;
            }
            State::Called(_) => return,
            State::Running => {}
        }
        if matches!(
            event,
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE
        ) {
            self.expect_child(tid);
        }
        let (request, signal) = match event {
            libc::PTRACE_EVENT_SECCOMP => {
                if let Ok(regs) = registers(tid)
                    && let Some(call) = Call::of(&regs)
                    && self.numbers.contains(&(regs.orig_rax as u32))
                {
                    if call.is_coordinator() {
                        self.coordinators.push(tid);
                    }
                    self.tracees.insert(tid, State::Called(call));
                    return;
                }
                (libc::PTRACE_CONT, 0)
            }
            libc::PTRACE_EVENT_STOP if signal != libc::SIGTRAP => (libc::PTRACE_LISTEN, 0),
            0 if signal == libc::SIGTRAP | 0x80 => (libc::PTRACE_CONT, 0),
            0 => (libc::PTRACE_CONT, signal),
            _ => (libc::PTRACE_CONT, 0),
        };
        let _ = ptrace(request, tid, 0, signal as u64);
    }

    /// A child is traced from its birth, but what its parent does next may be heard of before its first stop.
    fn expect_child(&mut self, parent: pid_t) {
        let mut child: libc::c_ulong = 0;
        let told = ptrace(libc::PTRACE_GETEVENTMSG, parent, 0, &raw mut child as u64).is_ok();
        let child = child as pid_t;
        if told && scheduler_state(child).is_some_and(|state| !matches!(state, 'Z' | 'X')) {
            self.tracees.entry(child).or_insert(State::Running);
        }
    }

    fn forward_signals(&self) {
        loop {
            // SAFETY: all zeroes is a valid value of this plain struct.
            let mut info: libc::signalfd_siginfo = unsafe { zeroed() };
            let size = size_of::<libc::signalfd_siginfo>();
            // SAFETY: room for one struct of this size.
            let n = unsafe {
                libc::read(
                    self.signals.as_raw_fd(),
                    (&raw mut info).cast::<c_void>(),
                    size,
                )
            };
            if n != size as isize {
                return;
            }
            let signal = info.ssi_signo as c_int;
            // What a terminal sends reaches the program by itself.
            if signal != libc::SIGCHLD && info.ssi_code <= libc::SI_USER && self.ended.is_none() {
                // SAFETY: no memory is involved.
                unsafe { libc::kill(self.program, signal) };
            }
        }
    }
}

fn become_program(
    program: &[CString],
    numbers: &[u32],
    gate: [c_int; 2],
    mask: &libc::sigset_t,
) -> io::Error {
    let mut arguments: Vec<_> = program.iter().map(|argument| argument.as_ptr()).collect();
    arguments.push(null());
    let mut filter = filter(numbers);
    let filter = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    let set = c_long::from(libc::SECCOMP_SET_MODE_FILTER);
    let mut byte = 0u8;
    // SAFETY: the filter, the arguments (ended by a null) and the mask outlive these calls.
    unsafe {
        libc::close(gate[1]);
        // Ends when the parent traces this process.
        libc::read(gate[0], (&raw mut byte).cast(), 1);
        libc::close(gate[0]);
        if libc::syscall(libc::SYS_seccomp, set, 0, &raw const filter) != 0 {
            // Without privilege a filter is allowed only to those who give up gaining any.
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            if libc::syscall(libc::SYS_seccomp, set, 0, &raw const filter) != 0 {
                return io::Error::last_os_error();
            }
        }
        // The Rust runtime ignores SIGPIPE, and that would be inherited.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::sigprocmask(libc::SIG_SETMASK, mask, null_mut());
        libc::execvp(arguments[0], arguments.as_ptr());
    }
    io::Error::last_os_error()
}

/// Trace these numbers of the x86_64 table, allow everything else.
fn filter(numbers: &[u32]) -> Vec<libc::sock_filter> {
    const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = vec![
        step(LOAD, 0, 0, 4),
        step(EQUAL, 1, 0, AUDIT_ARCH_X86_64),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        step(LOAD, 0, 0, 0),
    ];
    for &number in numbers {
        filter.push(step(EQUAL, 0, 1, number));
        filter.push(step(RETURN, 0, 0, libc::SECCOMP_RET_TRACE));
    }
    filter.push(step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    filter
}

fn ptrace(request: libc::c_uint, tid: pid_t, address: u64, data: u64) -> io::Result<c_long> {
    // SAFETY: used only for requests that take numbers, or pointers that the callers below made from references.
    let result = unsafe { libc::ptrace(request, tid, address, data) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn registers(tid: pid_t) -> Result<user_regs_struct, Gone> {
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut regs: user_regs_struct = unsafe { zeroed() };
    ptrace(libc::PTRACE_GETREGS, tid, 0, &raw mut regs as u64).map_err(|_| Gone)?;
    Ok(regs)
}

fn set_registers(tid: pid_t, regs: &user_regs_struct) -> Result<(), Gone> {
    ptrace(libc::PTRACE_SETREGS, tid, 0, &raw const *regs as u64)
        .map_err(|_| Gone)
        .map(drop)
}

/// Replaces the mask of blocked signals; the old one.
fn swap_signal_mask(tid: pid_t, mask: u64) -> Result<u64, Gone> {
    let mut before = 0u64;
    let size = size_of::<u64>() as u64;
    ptrace(PTRACE_GETSIGMASK, tid, size, &raw mut before as u64).map_err(|_| Gone)?;
    ptrace(PTRACE_SETSIGMASK, tid, size, &raw const mask as u64).map_err(|_| Gone)?;
    Ok(before)
}

fn at_syscall_exit(tid: pid_t) -> bool {
    const EXIT: u8 = 2;
    let mut info = [0u8; 96];
    let size = info.len() as u64;
    ptrace(
        libc::PTRACE_GET_SYSCALL_INFO,
        tid,
        size,
        info.as_mut_ptr() as u64,
    )
    .is_ok()
        && info[0] == EXIT
}

fn write_memory(tid: pid_t, at: u64, bytes: &[u8]) -> io::Result<()> {
    let local = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let remote = libc::iovec {
        iov_base: at as *mut c_void,
        iov_len: bytes.len(),
    };
    // SAFETY: reads `bytes` only; the other end is the memory of another process.
    let n = unsafe { libc::process_vm_writev(tid, &local, 1, &remote, 1, 0) };
    if n == bytes.len() as isize {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn read_memory(tid: pid_t, at: u64, bytes: &mut [u8]) -> io::Result<()> {
    let local = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let remote = libc::iovec {
        iov_base: at as *mut c_void,
        iov_len: bytes.len(),
    };
    // SAFETY: writes `bytes` only; the other end is the memory of another process.
    let n = unsafe { libc::process_vm_readv(tid, &local, 1, &remote, 1, 0) };
    if n == bytes.len() as isize {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn scheduler_state(tid: pid_t) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{tid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

fn raise_descriptor_limit() {
    // SAFETY: a valid place for the limits, and all zeroes is a valid value of them.
    unsafe {
        let mut limit: libc::rlimit = zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

fn empty_set() -> libc::sigset_t {
    // SAFETY: initialises the set it is given.
    unsafe {
        let mut set = zeroed();
        libc::sigemptyset(&mut set);
        set
    }
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
