//! What was declared of the host's devices, by the config file and by the API; the latter over restarts.
//!
//! ```text
//!   store, table "shell":   device/NAME -> as it was declared, in JSON
//! ```
//!
//! Owns that a change is on the disk before it holds. What may be declared is decided in `meshd_core::config`.

use crate::coded::refusal;
use crate::store::{Store, StoreError};
use meshd_core::code::ErrorCode;
use meshd_core::command::Refusal;
use meshd_core::config::{Declared, DeviceConfig, DeviceName, DevicesConfig, Merged};
use std::path::Path;

const KEY: &str = "device/";

/// See the module.
pub(super) struct Book {
    store: Store,
    declared: Declared,
    /// What was said in the log not to count.
    told: Merged,
}

impl Book {
    /// Reads what is kept. What cannot be read is told, and left out.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(super) fn open(
        store: Store,
        path: Option<&Path>,
        file: DevicesConfig,
    ) -> Result<Self, StoreError> {
        let mut kept = Vec::new();
        for (key, value) in store.list(KEY)? {
            match serde_json::from_slice::<DeviceConfig>(&value) {
                Ok(device) if key == key_of(device.name()) => kept.push(device),
                Ok(_) => {
                    tracing::warn!(code = %ErrorCode::DeviceStateDamaged, %key, "what is kept of a device is another's, and is left out");
                }
                Err(error) => {
                    tracing::warn!(code = %ErrorCode::DeviceStateDamaged, %key, %error, "what is kept of a device cannot be read, and is left out");
                }
            }
        }
        let place = path.map_or_else(
            || "the config file".to_owned(),
            |path| path.display().to_string(),
        );
        let declared = Declared::new(place, file, kept);
        let mut book = Self {
            store,
            declared,
            told: Merged::default(),
        };
        book.tell();
        Ok(book)
    }

    /// What counts.
    pub(super) fn merge(&self) -> Merged {
        self.told.clone()
    }

    /// The file says this now.
    pub(super) fn set_file(&mut self, file: DevicesConfig) {
        self.declared.set_file(file);
        self.tell();
    }

    /// Keeps a device, then has it count.
    ///
    /// # Errors
    /// See [`Declared::put`]; or if the store cannot be written.
    pub(super) async fn put(&mut self, device: DeviceConfig) -> Result<(), Refusal> {
        let next = self.declared.put(device.clone())?;
        if next != self.declared {
            let value = serde_json::to_vec(&device)
                .map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))?;
            self.write(device.name(), Some(value)).await?;
            tracing::info!(device = %device.name(), kind = device.kind(), "declared by the API");
        }
        self.declared = next;
        self.tell();
        Ok(())
    }

    /// Forgets a device, then has it count no more.
    ///
    /// # Errors
    /// See [`Declared::remove`]; or if the store cannot be written.
    pub(super) async fn remove(&mut self, name: &DeviceName) -> Result<(), Refusal> {
        let next = self.declared.remove(name)?;
        self.write(name, None).await?;
        tracing::info!(device = %name, "declared by the API no more");
        self.declared = next;
        self.tell();
        Ok(())
    }

    async fn write(&self, name: &DeviceName, value: Option<Vec<u8>>) -> Result<(), Refusal> {
        let (store, key) = (self.store.clone(), key_of(name));
        let write = move || store.put_all(&[(key.as_str(), value.as_deref())]);
        let written = tokio::task::spawn_blocking(write).await;
        written
            .map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))?
            .map_err(|error| refusal(&error))
    }

    /// Merges again, and says what of it does not count any more.
    fn tell(&mut self) {
        let merged = self.declared.merge();
        for (name, (_, why)) in &merged.left_out {
            let before = self.told.left_out.get(name);
            if before.is_none_or(|(_, before)| before != why) {
                tracing::warn!(code = %ErrorCode::DeviceConflict, device = %name, "{why}");
            }
        }
        self.told = merged;
    }
}

/// Names of devices are text, so a key shows which it is.
fn key_of(name: &DeviceName) -> String {
    format!("{KEY}{}", String::from(name.clone()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn dummy(name: &str) -> DeviceConfig {
        let text = format!("[[device.dummy]]\nname = \"{name}\"\n");
        DevicesConfig::listed(&text).unwrap().remove(0)
    }

    #[tokio::test]
    async fn what_was_declared_is_there_after_a_restart_and_what_is_damaged_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            // A program that another test starts has the lock too, until it is that program.
            let patience = std::time::Duration::from_secs(10);
            let store = Store::open_within(&dir.path().join("s"), patience).unwrap();
            Book::open(store, None, DevicesConfig::default()).unwrap()
        };
        let names = |book: &Book| {
            let names = book.merge().counts.into_keys();
            names.map(|name| name.to_string()).collect::<Vec<_>>()
        };
        {
            let mut book = open();
            for name in ["a", "b", "c\u{e9}"] {
                book.put(dummy(name)).await.unwrap();
            }
            book.remove(dummy("a").name()).await.unwrap();
            let refused = book.remove(dummy("a").name()).await.unwrap_err();
            assert_eq!(refused.code, ErrorCode::DeviceUnknown);
            book.store.put("device/x", b"{").unwrap();
            let of_another = serde_json::to_vec(&dummy("b")).unwrap();
            book.store.put("device/y", &of_another).unwrap();
        }
        let mut book = open();
        assert_eq!(names(&book), ["b", "c\u{e9}"]);
        book.put(dummy("x")).await.unwrap();
        drop(book);
        assert_eq!(names(&open()), ["b", "c\u{e9}", "x"]);
    }
}
