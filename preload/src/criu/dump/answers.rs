//! Answers of sock_diag(7) about unix sockets, which criu gets changed.
//!
//! A client that waits at a listener may be told of before the listener, so an answer
//! is received to its end before criu gets its first datagram.

use ckpt_image::criu::dump::sockets::{Sockets, ends, is_about_unix_sockets};
use ckpt_restart::errno;
use libc::{c_int, msghdr, ssize_t};
use std::collections::VecDeque;
use std::io;

/// Datagrams that criu has yet to receive.
#[derive(Default)]
pub struct Answers {
    fd: c_int,
    waiting: VecDeque<Vec<u8>>,
}

/// Whether a descriptor is a socket that gets such answers.
pub fn come_on(fd: c_int) -> bool {
    errno::keeping(|| {
        option(fd, libc::SO_DOMAIN) == Some(libc::AF_NETLINK)
            && option(fd, libc::SO_PROTOCOL) == Some(libc::NETLINK_SOCK_DIAG)
    })
}

fn option(fd: c_int, name: c_int) -> Option<c_int> {
    let mut value: c_int = 0;
    let mut length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: value and length are writable and of the sizes told.
    let result = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            name,
            (&raw mut value).cast(),
            &mut length,
        )
    };
    (result == 0).then_some(value)
}

impl Answers {
    /// recvmsg(2): the next datagram, changed where it is about unix sockets.
    ///
    /// # Safety
    /// `message` is what the program gave, as for recvmsg(2), and `real` the real
    /// call.
    pub unsafe fn receive(
        &mut self,
        fd: c_int,
        message: *mut msghdr,
        sockets: &mut Sockets,
        real: &dyn Fn(*mut msghdr) -> ssize_t,
    ) -> ssize_t {
        // SAFETY: as the caller promises: a buffer of the length that it tells.
        let (buffer, room) = unsafe {
            if message.is_null() || (*message).msg_iovlen != 1 {
                return real(message);
            }
            let part = &*(*message).msg_iov;
            (part.iov_base.cast::<u8>(), part.iov_len)
        };
        if self.fd == fd
            && let Some(datagram) = self.waiting.pop_front()
        {
            let length = datagram.len().min(room);
            // SAFETY: the buffer has room for as much, and is not ours.
            unsafe {
                std::ptr::copy_nonoverlapping(datagram.as_ptr(), buffer, length);
                (*message).msg_flags = 0;
                (*message).msg_controllen = 0;
            }
            return length.cast_signed();
        }
        let received = real(message);
        let Ok(length @ 1..) = usize::try_from(received) else {
            return received;
        };
        // SAFETY: recvmsg has filled as much of the buffer, and no more than it has.
        let first = unsafe { std::slice::from_raw_parts_mut(buffer, length.min(room)) };
        if !is_about_unix_sockets(first) {
            return received;
        }
        sockets.note(first);
        self.fd = fd;
        self.waiting.clear();
        let mut done = ends(first);
        while !done {
            // What goes wrong here goes wrong again when criu comes for it.
            let Ok(datagram) = one(room, real) else {
                break;
            };
            sockets.note(&datagram);
            done = ends(&datagram);
            self.waiting.push_back(datagram);
        }
        sockets.close(first);
        for datagram in &mut self.waiting {
            sockets.close(datagram);
        }
        received
    }
}

/// Receives a datagram of at most this many bytes.
fn one(most: usize, real: &dyn Fn(*mut msghdr) -> ssize_t) -> io::Result<Vec<u8>> {
    let mut datagram = vec![0; most];
    loop {
        let mut part = libc::iovec {
            iov_base: datagram.as_mut_ptr().cast(),
            iov_len: datagram.len(),
        };
        // SAFETY: msghdr is plain data, and all zeroes is a value of it.
        let mut message: msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        let received = real(&raw mut message);
        match usize::try_from(received) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) if message.msg_flags & libc::MSG_TRUNC != 0 => {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            Ok(length) => {
                datagram.truncate(length);
                return Ok(datagram);
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}
