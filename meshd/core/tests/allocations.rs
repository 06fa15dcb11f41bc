//! No frame asks for memory: the data path's pure parts under an allocator that counts.

#![allow(unsafe_code)] // An allocator is unsafe by its type; this one hands everything on.

#[path = "../benches/scenes/mod.rs"]
mod scenes;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Of this thread, so that tests beside each other do not count what is not theirs.
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

fn asked() {
    // Before a thread has its own memory and after, nothing is counted.
    let _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
}

// SAFETY: each call goes on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        asked();
        // SAFETY: as the caller promises us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises us.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        asked();
        // SAFETY: as the caller promises us.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of 1,000 plays of each scene, behind 1,000 that fill tables and buffers.
fn counted(scenes: &[scenes::Scene]) -> Vec<(&'static str, u64)> {
    let count = |(name, make): &scenes::Scene| {
        let Some(mut act) = make() else {
            panic!("{name}: the scene is not as it was written");
        };
        (0..1000).for_each(|_| act());
        let before = ASKED.get();
        (0..1000).for_each(|_| act());
        (*name, ASKED.get() - before)
    };
    scenes.iter().map(count).collect()
}

#[test]
fn what_is_asked_for_is_counted() {
    let before = ASKED.get();
    drop(std::hint::black_box(Box::new(7)));
    assert_eq!(ASKED.get() - before, 1);
}

#[test]
fn a_frame_that_a_cached_ruling_decides_asks_for_no_memory() {
    for (scene, asked) in counted(&scenes::FRAMES) {
        assert_eq!(asked, 0, "{scene}");
    }
}

#[test]
fn neither_a_superframe_nor_a_frame_or_slice_of_it_asks_for_memory_while_those_before_are_gone() {
    for (scene, asked) in counted(&scenes::SUPERFRAMES) {
        assert_eq!(asked, 0, "{scene}");
    }
}
