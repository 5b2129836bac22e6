//! What every [`Disk`] does: run against each of them.

use std::io::ErrorKind;
use std::path::Path;

use super::{AlignedBuf, BLOCK_BYTES, Disk, SyncMode};

/// Files through the page cache: any offset, any length.
pub(super) fn buffered_files(disk: &dyn Disk, dir: &Path) {
    disk.create_dir_all(dir).unwrap();
    let path = dir.join("buffered");
    let file = disk.create(&path, 0, SyncMode::Buffered).unwrap();
    assert!(file.is_empty().unwrap());
    assert_eq!(disk.create(&path, 0, SyncMode::Buffered).unwrap_err().kind(), ErrorKind::AlreadyExists);
    file.write_at(3, b"abc").unwrap();
    file.write_at(700, b"xyz").unwrap();
    file.sync().unwrap();
    assert_eq!(file.len().unwrap(), 703);
    let mut bytes = [9; 10];
    assert_eq!(file.read_at(0, &mut bytes).unwrap(), 10);
    assert_eq!(&bytes, b"\0\0\0abc\0\0\0\0");
    assert_eq!(file.read_at(698, &mut bytes).unwrap(), 5);
    assert_eq!(&bytes[..5], b"\0\0xyz");
    assert_eq!(file.read_at(5000, &mut bytes).unwrap(), 0);
    file.set_len(4).unwrap();
    assert_eq!(disk.open(&path, SyncMode::Buffered).unwrap().len().unwrap(), 4);
    disk.remove(&path).unwrap();
}

/// Files past the page cache: whole blocks only, and the space is there.
pub(super) fn direct_files(disk: &dyn Disk, dir: &Path) {
    disk.create_dir_all(dir).unwrap();
    let path = dir.join("direct");
    let file = disk.create(&path, 4 * BLOCK_BYTES as u64, SyncMode::Direct).unwrap();
    assert_eq!(file.len().unwrap(), 4 * BLOCK_BYTES as u64);
    let mut buf = AlignedBuf::zeroed(2 * BLOCK_BYTES);
    buf.fill(7);
    file.write_at(BLOCK_BYTES as u64, &buf).unwrap();
    assert_eq!(file.write_at(512, &buf).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(file.write_at(0, &buf[..100]).unwrap_err().kind(), ErrorKind::InvalidInput);
    let mut back = AlignedBuf::zeroed(4 * BLOCK_BYTES);
    assert_eq!(file.read_at(0, &mut back).unwrap(), 4 * BLOCK_BYTES);
    assert!(back[..BLOCK_BYTES].iter().all(|&b| b == 0) && back[BLOCK_BYTES..3 * BLOCK_BYTES] == buf[..]);
    assert_eq!(file.read_at(3 * BLOCK_BYTES as u64, &mut back).unwrap(), BLOCK_BYTES);
    disk.remove(&path).unwrap();
}

/// Names: listed in order, renamed over what is there, gone when removed.
pub(super) fn names(disk: &dyn Disk, dir: &Path) {
    disk.create_dir_all(dir).unwrap();
    for name in ["b", "a", "c"] {
        let file = disk.create(&dir.join(name), 0, SyncMode::Buffered).unwrap();
        file.write_at(0, name.as_bytes()).unwrap();
    }
    disk.rename(&dir.join("c"), &dir.join("a")).unwrap();
    disk.sync_dir(dir).unwrap();
    assert_eq!(disk.list(dir).unwrap(), [dir.join("a"), dir.join("b")]);
    let mut byte = [0];
    disk.open(&dir.join("a"), SyncMode::Buffered).unwrap().read_at(0, &mut byte).unwrap();
    assert_eq!(&byte, b"c");
    assert_eq!(disk.open(&dir.join("c"), SyncMode::Buffered).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.remove(&dir.join("c")).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(disk.space(dir).unwrap().available > 0);
}
