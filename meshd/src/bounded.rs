//! Files and streams that others choose, read up to a bound: whoever names `/dev/zero` gets an error and not all memory.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The whole file.
///
/// # Errors
/// If it cannot be read, or holds more than `max` bytes.
pub(crate) fn file(path: &Path, max: usize) -> io::Result<Vec<u8>> {
    all(File::open(path)?, max)
}

/// The whole of a regular file, which is text. Anything else may give no byte for ever, or take away what another waits for: a
/// FIFO, a device.
///
/// # Errors
/// If it is another kind of file, cannot be read, holds more than `max` bytes, or is no UTF-8.
pub(crate) fn regular_text(path: &Path, max: usize) -> io::Result<String> {
    let file = File::options()
        .read(true)
        // Opening a FIFO waits for somebody who writes.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        let message = "it is no regular file, but a folder, FIFO or device";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    String::from_utf8(all(file, max)?).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// All of stdin.
///
/// # Errors
/// If it cannot be read, or gives more than `max` bytes.
pub(crate) fn stdin(max: usize) -> io::Result<Vec<u8>> {
    all(io::stdin().lock(), max)
}

/// The whole file, which is text.
///
/// # Errors
/// Also if it is no UTF-8.
pub(crate) fn text(path: &Path, max: usize) -> io::Result<String> {
    String::from_utf8(file(path, max)?).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

fn all(from: impl Read, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(max).unwrap_or(u64::MAX);
    from.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() > max {
        let message = format!("it is larger than the {max} bytes that are possible here");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_never_ends_is_refused_at_its_bound_and_the_last_byte_below_it_is_read() {
        let endless = file(Path::new("/dev/zero"), 1 << 16).unwrap_err();
        assert!(endless.to_string().contains("65536 bytes"), "{endless}");
        assert_eq!(all(&[1u8; 5][..], 5).unwrap(), [1; 5]);
        assert!(all(&[1u8; 6][..], 5).is_err());
        assert!(text(Path::new("/dev/zero"), 10).is_err());
    }

    #[test]
    fn what_is_to_be_a_regular_file_is_refused_at_once_where_it_is_none() {
        let temp = tempfile::tempdir().unwrap();
        let (fifo, plain) = (temp.path().join("fifo"), temp.path().join("plain"));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        std::fs::write(&plain, "text").unwrap();
        for other in [fifo.as_path(), temp.path(), Path::new("/dev/zero")] {
            let refused = regular_text(other, 10).unwrap_err();
            assert!(refused.to_string().contains("no regular file"), "{refused}");
        }
        assert_eq!(regular_text(&plain, 10).unwrap(), "text");
        assert!(regular_text(&plain, 3).is_err());
    }
}
