//! The calls use no heap: a signal handler may have interrupted malloc(3).

mod support;

use cradvise::{CR_ADV_IGNORE, CR_ADV_PRESERVE};
use cradvise::{cradvise, cradvise_query, cradvise_reset, restart, status};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use support::{close, open_at};

thread_local! {
    static ALLOCATIONS: Cell<u32> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: the system's allocator, and a count that does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn calls_use_no_heap() {
    open_at("/dev/null", 500);
    // SAFETY: a number of this test.
    unsafe { libc::dup2(libc::eventfd(0, libc::EFD_CLOEXEC), 501) };
    let before = ALLOCATIONS.get();

    let mut wrong = 0;
    let mut expect = |right: bool| wrong += u32::from(!right);
    expect(cradvise(500, CR_ADV_PRESERVE).is_ok());
    expect(cradvise(501, CR_ADV_PRESERVE).is_ok());
    expect(cradvise(1 << 27, CR_ADV_IGNORE).is_ok());
    expect(cradvise(502, CR_ADV_PRESERVE).is_err());
    expect(cradvise(500, 8).is_err());
    expect(cradvise_query(500).is_ok());
    expect(cradvise_query(501).is_ok());
    close(500);
    expect(cradvise_query(500).is_ok());
    expect(restart(1, 0, 0, -1).is_err());
    expect(cradvise_reset().is_ok());
    let _ = status();

    assert_eq!(ALLOCATIONS.get(), before);
    assert_eq!(wrong, 0);
}
