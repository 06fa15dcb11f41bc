//! bpf(2): maps, programs, and finding both again.
//!
//! Owns the system call and the memory that is shared with the kernel. Refuses to know what is in a map: it checks that keys
//! and values have the sizes that the kernel reads and writes, so that all of its functions are safe to call.
//!
//! Source: `union bpf_attr`, `struct bpf_prog_info` and `struct bpf_map_info` of linux/bpf.h.
#![allow(unsafe_code)] // bpf(2) and the mapping of a map have no safe wrapper without a dependency.

use super::asm::Instruction;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::AtomicU64;

/// `enum bpf_cmd`.
mod command {
    use libc::c_int;
    pub(super) const MAP_CREATE: c_int = 0;
    pub(super) const MAP_LOOKUP_ELEM: c_int = 1;
    pub(super) const MAP_UPDATE_ELEM: c_int = 2;
    pub(super) const MAP_GET_NEXT_KEY: c_int = 4;
    pub(super) const PROG_LOAD: c_int = 5;
    #[cfg(test)]
    pub(super) const PROG_TEST_RUN: c_int = 10;
    pub(super) const PROG_GET_FD_BY_ID: c_int = 13;
    pub(super) const MAP_GET_FD_BY_ID: c_int = 14;
    pub(super) const OBJ_GET_INFO_BY_FD: c_int = 15;
    pub(super) const MAP_LOOKUP_AND_DELETE_ELEM: c_int = 21;
    pub(super) const MAP_LOOKUP_BATCH: c_int = 24;
    pub(super) const MAP_UPDATE_BATCH: c_int = 26;
}

/// Elements that are read by one call.
const BATCH: usize = 4096;
/// Bytes for what the verifier says of a program that it refuses.
const LOG_LEN: usize = 64 << 10;

/// # Safety
/// Each address in `attributes` must be valid for what `command` does with it, over the call.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> Result<libc::c_int, Errno> {
    // SAFETY: the attributes live over the call and their size is given; the caller answers for what they point to.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    libc::c_int::try_from(Errno::result(answer)?).map_err(|_| Errno::EOVERFLOW)
}

/// # Safety
/// As [`bpf`], and the command must answer with a new descriptor.
unsafe fn descriptor<T>(command: libc::c_int, attributes: &mut T) -> Result<OwnedFd, Errno> {
    // SAFETY: by the caller.
    let fd = unsafe { bpf(command, attributes) }?;
    // SAFETY: the kernel just returned the descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address<T>(of: &[T]) -> u64 {
    of.as_ptr().expose_provenance() as u64
}

fn address_mut<T>(of: &mut [T]) -> u64 {
    of.as_mut_ptr().expose_provenance() as u64
}

fn number(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// What a map is like. Two maps of the same spec can stand for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MapSpec {
    /// `enum bpf_map_type`.
    pub(super) kind: u32,
    /// Bytes.
    pub(super) key_len: u32,
    /// Bytes, a multiple of 8.
    pub(super) value_len: u32,
    /// Elements, at most.
    pub(super) capacity: u32,
    /// `BPF_F_*`.
    pub(super) flags: u32,
    /// Padded with zeros.
    pub(super) name: [u8; 16],
}

/// A map of the kernel.
#[derive(Debug)]
pub(super) struct Map {
    fd: OwnedFd,
    spec: MapSpec,
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct Element {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The head of `struct bpf_map_info`; the kernel writes no more than it is given room for.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    name: [u8; 16],
}

/// The head of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited: u64,
    xlated: u64,
    load_time: u64,
    uid: u32,
    map_count: u32,
    map_ids: u64,
}

/// # Safety
/// `T` must be plain bytes, and addresses in it valid for what the kernel writes there.
unsafe fn info<T>(fd: &OwnedFd, into: &mut T) -> Result<(), Errno> {
    let mut attributes = InfoByFd {
        bpf_fd: number(fd),
        info_len: u32::try_from(size_of::<T>()).map_err(|_| Errno::EINVAL)?,
        info: std::ptr::from_mut(into).expose_provenance() as u64,
    };
    // SAFETY: `into` lives over the call and has the size that is given; the caller answers for what it points to.
    unsafe { bpf(command::OBJ_GET_INFO_BY_FD, &mut attributes) }.map(|_| ())
}

impl Map {
    pub(super) fn create(spec: MapSpec) -> Result<Self, Errno> {
        let mut attributes = MapCreate {
            map_type: spec.kind,
            key_size: spec.key_len,
            value_size: spec.value_len,
            max_entries: spec.capacity,
            map_flags: spec.flags,
            map_name: spec.name,
            ..MapCreate::default()
        };
        // SAFETY: there is no address in it, and the answer is a descriptor.
        let fd = unsafe { descriptor(command::MAP_CREATE, &mut attributes) }?;
        Ok(Self { fd, spec })
    }

    /// The maps that a program uses, as far as they can be opened.
    ///
    /// # Errors
    /// ENOENT: there is no such program. EPERM without CAP_SYS_ADMIN.
    pub(super) fn of_program(id: u32) -> Result<Vec<Self>, Errno> {
        let by_id = |id| ById {
            id,
            ..ById::default()
        };
        // SAFETY: there is no address in it, and the answer is a descriptor.
        let program = unsafe { descriptor(command::PROG_GET_FD_BY_ID, &mut by_id(id)) }?;
        let mut ids = [0u32; 16];
        let mut found = ProgramInfo {
            map_count: 16,
            map_ids: address_mut(&mut ids),
            ..ProgramInfo::default()
        };
        // SAFETY: the one address in it is that of `ids`, whose length it says; `ids` lives over the call.
        unsafe { info(&program, &mut found) }?;
        let count = usize::try_from(found.map_count).map_err(|_| Errno::EOVERFLOW)?;
        ids.into_iter()
            .take(count)
            .map(|id| {
                // SAFETY: there is no address in it, and the answer is a descriptor.
                let fd = unsafe { descriptor(command::MAP_GET_FD_BY_ID, &mut by_id(id)) }?;
                let mut found = MapInfo::default();
                // SAFETY: plain bytes without an address.
                unsafe { info(&fd, &mut found) }?;
                let spec = MapSpec {
                    kind: found.kind,
                    key_len: found.key_size,
                    value_len: found.value_size,
                    capacity: found.max_entries,
                    flags: found.map_flags,
                    name: found.name,
                };
                Ok(Self { fd, spec })
            })
            .collect()
    }

    pub(super) fn spec(&self) -> &MapSpec {
        &self.spec
    }

    /// For a program that uses the map.
    pub(super) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    fn check(&self, key: &[u8], value: &[u8]) -> Result<(), Errno> {
        let fits = |bytes: &[u8], len: u32| u32::try_from(bytes.len()) == Ok(len);
        if fits(key, self.spec.key_len) && fits(value, self.spec.value_len) {
            Ok(())
        } else {
            Err(Errno::EINVAL)
        }
    }

    fn element(&self, key: &[u8], value: u64) -> Element {
        Element {
            map_fd: number(&self.fd),
            key: address(key),
            value,
            ..Element::default()
        }
    }

    /// Reads into `value`; false: there is no such key.
    pub(super) fn lookup(&self, key: &[u8], value: &mut [u8]) -> Result<bool, Errno> {
        self.read(command::MAP_LOOKUP_ELEM, key, value)
    }

    /// As [`Self::lookup`], and the element is gone after it.
    pub(super) fn take(&self, key: &[u8], value: &mut [u8]) -> Result<bool, Errno> {
        self.read(command::MAP_LOOKUP_AND_DELETE_ELEM, key, value)
    }

    fn read(&self, command: libc::c_int, key: &[u8], value: &mut [u8]) -> Result<bool, Errno> {
        self.check(key, value)?;
        let mut attributes = self.element(key, address_mut(value));
        // SAFETY: key and value live over the call and have the sizes that the kernel reads and writes.
        match unsafe { bpf(command, &mut attributes) } {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Inserts or replaces: a reader meets the old value or the new one.
    pub(super) fn update(&self, key: &[u8], value: &[u8]) -> Result<(), Errno> {
        self.check(key, value)?;
        let mut attributes = self.element(key, address(value));
        // SAFETY: key and value live over the call, have the sizes that the kernel reads, and are only read.
        unsafe { bpf(command::MAP_UPDATE_ELEM, &mut attributes) }.map(|_| ())
    }

    /// Inserts or replaces `count` elements whose keys and values stand one behind the other. Each by itself is whole at any
    /// time, all of them together are not.
    ///
    /// # Errors
    /// The kernel's; how many were done is told.
    pub(super) fn update_all(
        &self,
        keys: &[u8],
        values: &[u8],
        count: u32,
    ) -> Result<(), (u32, Errno)> {
        let fits = |bytes: &[u8], len: u32| bytes.len() as u64 == u64::from(len) * u64::from(count);
        if !fits(keys, self.spec.key_len) || !fits(values, self.spec.value_len) {
            return Err((0, Errno::EINVAL));
        }
        let mut attributes = Batch {
            keys: address(keys),
            values: address(values),
            count,
            map_fd: number(&self.fd),
            ..Batch::default()
        };
        // SAFETY: keys and values live over the call, hold `count` of the map's sizes, and are only read.
        match unsafe { bpf(command::MAP_UPDATE_BATCH, &mut attributes) } {
            Ok(_) => Ok(()),
            // The kernel takes the count back only where it came to work on it.
            Err(error @ (Errno::EINVAL | Errno::EPERM | Errno::EFAULT)) => Err((0, error)),
            Err(error) => Err((attributes.count.min(count), error)),
        }
    }

    /// Shows all elements. One that comes or goes meanwhile may be shown or not.
    pub(super) fn each(&self, mut show: impl FnMut(&[u8], &[u8])) -> Result<(), Errno> {
        let size = |len| usize::try_from(len).map_err(|_| Errno::EOVERFLOW);
        let (key_len, value_len) = (size(self.spec.key_len)?, size(self.spec.value_len)?);
        let (mut keys, mut values) = (vec![0; BATCH * key_len], vec![0; BATCH * value_len]);
        // Of a hash: the number of the bucket that is next.
        let (mut place, mut next, mut first) = ([0u32; 1], [0u32; 1], true);
        loop {
            let mut attributes = Batch {
                in_batch: if first { 0 } else { address(&place) },
                out_batch: address_mut(&mut next),
                keys: address_mut(&mut keys),
                values: address_mut(&mut values),
                count: u32::try_from(BATCH).map_err(|_| Errno::EOVERFLOW)?,
                map_fd: number(&self.fd),
                ..Batch::default()
            };
            // SAFETY: the buffers live over the call and hold `count` of the map's sizes; of a hash the places are 4 bytes.
            let answer = unsafe { bpf(command::MAP_LOOKUP_BATCH, &mut attributes) };
            if let Err(error) = answer
                && error != Errno::ENOENT
            {
                // A kernel without it, if it never worked.
                return if first { self.walk(show) } else { Err(error) };
            }
            let elements = keys
                .chunks_exact(key_len)
                .zip(values.chunks_exact(value_len));
            for (key, value) in elements.take(size(attributes.count)?) {
                show(key, value);
            }
            if answer.is_err() {
                return Ok(());
            }
            (place, first) = (next, false);
        }
    }

    /// As [`Self::each`], one by one.
    pub(super) fn walk(&self, mut show: impl FnMut(&[u8], &[u8])) -> Result<(), Errno> {
        let size = |len| usize::try_from(len).map_err(|_| Errno::EOVERFLOW);
        let mut value = vec![0; size(self.spec.value_len)?];
        let (mut key, mut next) = (None::<Vec<u8>>, vec![0; size(self.spec.key_len)?]);
        // A key that was deleted meanwhile makes the kernel start again, so the walk has an end of its own.
        for _ in 0..self.spec.capacity {
            let mut attributes = self.element(&[], address_mut(&mut next));
            attributes.key = key.as_deref().map_or(0, address);
            // SAFETY: both keys live over the call and have the map's size; no key stands for the start.
            match unsafe { bpf(command::MAP_GET_NEXT_KEY, &mut attributes) } {
                Ok(_) => {}
                Err(Errno::ENOENT) => break,
                Err(error) => return Err(error),
            }
            if self.lookup(&next, &mut value)? {
                show(&next, &value);
            }
            key = Some(next.clone());
        }
        Ok(())
    }
}

/// An array of the kernel (made with BPF_F_MMAPABLE) as memory: words that programs read and write at the same time.
#[derive(Debug)]
pub(super) struct Shared {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: it is memory that is only reached by atomic operations, and it stays where it is.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn of(map: &Map) -> Result<Self, Errno> {
        let bytes = u64::from(map.spec.value_len) * u64::from(map.spec.capacity);
        let bytes = usize::try_from(bytes).map_err(|_| Errno::EOVERFLOW)?;
        if !map.spec.value_len.is_multiple_of(8) {
            return Err(Errno::EINVAL);
        }
        // SAFETY: a new mapping, wherever the kernel puts it; it refuses more than the array has.
        let start = unsafe {
            libc::mmap(
                null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Self {
            start: NonNull::new(start.cast()).ok_or(Errno::EFAULT)?,
            words: bytes / 8,
        })
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has so many words, begins at a page, and lives as long as `self`; others change it only by
        // atomic operations or whole words.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that was made; nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.words * 8) };
    }
}

/// The kernel refused a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LoadError {
    /// Its answer.
    pub(super) errno: Errno,
    /// What the verifier says; empty if it was not asked.
    pub(super) log: String,
}

/// The head of `union bpf_attr` for BPF_PROG_LOAD, to `prog_name`; what follows is zero by its size.
#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// `enum bpf_prog_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    /// Decides which packets a socket hears, and how much of them.
    SocketFilter = 1,
    /// For traffic control.
    Classifier = 3,
}

/// Loads a program.
pub(super) fn load(
    kind: Kind,
    program: &[Instruction],
    name: [u8; 16],
) -> Result<OwnedFd, LoadError> {
    let mut log = Vec::new();
    let attempt = |log: &mut Vec<u8>| {
        let mut attributes = ProgramLoad {
            prog_type: kind as u32,
            insn_cnt: u32::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
            insns: address(program),
            license: c"Dual MIT/GPL".as_ptr().expose_provenance() as u64,
            prog_name: name,
            ..ProgramLoad::default()
        };
        if !log.is_empty() {
            attributes.log_level = 1;
            attributes.log_size = u32::try_from(log.len()).map_err(|_| Errno::E2BIG)?;
            attributes.log_buf = address_mut(log);
        }
        // SAFETY: program, licence and log live over the call; the first two are only read and the third has the size that
        // is given. The answer is a descriptor.
        unsafe { descriptor(command::PROG_LOAD, &mut attributes) }
    };
    let refused = match attempt(&mut log) {
        Ok(fd) => return Ok(fd),
        Err(errno) => errno,
    };
    // Once more, for the reason. Without the right to load there is none.
    if refused != Errno::EPERM {
        log.resize(LOG_LEN, 0);
        if let Ok(fd) = attempt(&mut log) {
            return Ok(fd);
        }
    }
    let text = log.split(|&byte| byte == 0).next().unwrap_or_default();
    Err(LoadError {
        errno: refused,
        log: String::from_utf8_lossy(text).into_owned(),
    })
}

/// The clock that programs read (`bpf_ktime_get_ns`): CLOCK_MONOTONIC, nanoseconds.
pub(super) fn monotonic() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the one address is that of `time`, which lives over the call. It cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    u64::try_from(time.tv_sec)
        .unwrap_or_default()
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(time.tv_nsec).unwrap_or_default())
}

/// Runs a program for traffic control on one frame so often, with fields of its `struct __sk_buff` set; answers its last verdict
/// and how many nanoseconds each took.
#[cfg(test)]
pub(super) fn run(
    program: &OwnedFd,
    frame: &[u8],
    context: &[u8],
    repeat: u32,
) -> Result<(i32, u32), Errno> {
    #[repr(C)]
    #[derive(Default)]
    struct TestRun {
        prog_fd: u32,
        retval: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        ctx_size_in: u32,
        ctx_size_out: u32,
        ctx_in: u64,
        ctx_out: u64,
    }
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| Errno::E2BIG);
    let mut attributes = TestRun {
        prog_fd: number(program),
        data_size_in: len(frame)?,
        data_in: address(frame),
        ctx_size_in: len(context)?,
        repeat,
        // No context is no address.
        ctx_in: if context.is_empty() {
            0
        } else {
            address(context)
        },
        ..TestRun::default()
    };
    // SAFETY: frame and context live over the call, have the sizes that are given, and are only read.
    unsafe { bpf(command::PROG_TEST_RUN, &mut attributes) }?;
    Ok((attributes.retval.cast_signed(), attributes.duration))
}
