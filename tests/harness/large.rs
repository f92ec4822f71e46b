//! Images of any size, written as they are read, and what memory a program takes that reads one.

#[path = "../../image/tests/generator/build.rs"]
#[allow(dead_code)]
mod image;

use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use crate::edit;
use image::{File, Kind, Process, Recipe, build};

/// Pages in one record of memory, as Linux writes them where there are as many.
pub const MOST_PAGES: u32 = 8192;

const PAGE: usize = 4096;
const PAGES: u32 = 403;
const BUFFER: u32 = 4;
const TAIL: [u8; 16] = *b"\x29\x23\0\0\x10\0\0\0\0\xef\xde\xc0\x0c\x2a\x2d\0";

/// An image of one process with much memory: a head, a record of memory that comes again and again, and a tail.
pub struct Large {
    head: Vec<u8>,
    memory: Vec<u8>,
    times: u64,
    tail: Vec<u8>,
}

impl Large {
    /// An image with descriptors of mixed kinds, none of which leaves anything behind that nobody else has.
    ///
    /// * `pages`: in one record of memory.
    /// * `bytes`: of memory, in all.
    pub fn new(descriptors: i32, pages: u32, bytes: u64) -> Self {
        let files = (0..descriptors).map(|index| File {
            kind: match index % 4 {
                0 => Kind::Eventfd(7),
                1 => Kind::Device,
                2 => Kind::Pipe(0, index % 8 == 2, 0),
                _ => Kind::Regular(2, false, 9),
            },
            own_cred: false,
        });
        let numbers = (0..descriptors).zip((0..).map(|file| (file, false)));
        let mut head = build(&Recipe {
            processes: vec![Process {
                table: numbers.collect(),
                ..Process::default()
            }],
            files: files.collect(),
            ..Recipe::default()
        });
        let tail = head.split_off(edit::first(&head, PAGES).at);
        let memory = vec![0x5a; pages as usize * (8 + PAGE)];
        let memory = [
            edit::record(PAGES, &u64::from(pages).to_le_bytes()),
            edit::record(BUFFER, &memory),
        ];
        Self {
            head,
            memory: memory.concat(),
            times: bytes.div_ceil(u64::from(pages) * PAGE as u64),
            tail,
        }
    }

    /// Writes it.
    ///
    /// # Errors
    /// What writing gives.
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        to.write_all(&self.head)?;
        for _ in 0..self.times {
            to.write_all(&self.memory)?;
        }
        to.write_all(&self.tail)
    }

    /// Its bytes.
    pub fn size(&self) -> u64 {
        (self.head.len() + self.tail.len()) as u64 + self.memory.len() as u64 * self.times
    }

    /// The most memory in KiB that a program had at a time that gets the image from a pipe and writes one into
    /// another: what is resident, its own code included.
    pub fn peak(&self, program: &mut Command) -> u64 {
        program.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = program.spawn().expect("a program that reads an image");
        let mut to = program.stdin.take().expect("its standard input");
        let (done, wait) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                // What it says itself is more than that it does not read on.
                let _ = self.write(&mut to);
                // It lives until its input ends.
                let _ = wait.recv();
            });
            read_to_tail(&mut program);
            let peak = peak_of(program.id());
            drop(done);
            assert!(program.wait().expect("an ended program").success());
            peak
        })
    }
}

fn read_to_tail(program: &mut Child) {
    let output = program.stdout.as_mut().expect("its standard output");
    let mut buffer = vec![0; 1 << 16];
    let mut last = Vec::new();
    while last != TAIL {
        let n = output.read(&mut buffer).expect("its output");
        assert!(n > 0, "the image that it wrote ends early");
        last.extend_from_slice(&buffer[n.saturating_sub(TAIL.len())..n]);
        last.drain(..last.len().saturating_sub(TAIL.len()));
    }
}

/// Not of wait4(2): that is no less than what the parent had.
fn peak_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
    number
        .and_then(|number| number.trim().parse().ok())
        .expect("its VmHWM")
}
