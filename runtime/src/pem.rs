//! Certificates and keys from files.

use std::io;
use std::path::Path;

/// More than any chain of certificates takes.
const BYTES_MAX: u64 = 1 << 20;

/// The text of a file of certificates or of a key, which is at most 1 MiB.
pub async fn read(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = tokio::fs::metadata(path).await?.len();
    if bytes > BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{bytes} bytes are no certificate")));
    }
    tokio::fs::read(path).await
}
