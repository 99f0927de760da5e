//! What the targets share: an allocator that ends the run when an input makes the hub ask for
//! more memory than its documentation allows, and the choice of an encoding.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use telehub::reading::Encoding;

/// Bytes of one allocation at most. The largest thing that the hub makes of a message is a
/// payload of 1 MiB; a vector that grows towards it by doubling takes up to twice that.
const ONE: usize = 4 << 20;

/// Bytes at a time at most.
const ALL: usize = 16 << 20;

static LIVE: AtomicUsize = AtomicUsize::new(0);

struct Bounded;

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

fn take(size: usize) {
    let live = LIVE.fetch_add(size, Relaxed) + size;
    if size > ONE || live > ALL {
        // No formatting: it would allocate. libFuzzer keeps the input that led here.
        std::process::abort();
    }
}

// SAFETY: all is left to the system's allocator; this only counts.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_sub(layout.size(), Relaxed);
        take(size);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// JSON if it begins like a JSON message; as CBOR such a byte would begin a string of more than
/// 4 GiB, which is no message. So one corpus holds both encodings as they are on the wire.
pub fn encoding(frame: &[u8]) -> Encoding {
    match frame.trim_ascii_start().first() {
        Some(b'{' | b'[' | b'"') => Encoding::Json,
        _ => Encoding::Cbor,
    }
}
