//! The names of RocksDB that `limitador` has to find, so that its storages in Redis compile: they share code
//! with the one on disk. That one is not measured here, and the real thing would take longer to build than
//! everything else together. No database can be opened, so nothing else is ever called.

#![allow(clippy::unused_self, clippy::needless_pass_by_value, reason = "the names are another crate's")]

use std::{convert::Infallible, marker::PhantomData, path::Path};

#[derive(Debug)]
pub struct Error;

impl Error {
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::NotSupported
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("there is no RocksDB here")
    }
}

impl std::error::Error for Error {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    NotSupported,
    TimedOut,
    TryAgain,
}

pub enum CompactionDecision {
    Keep,
    Remove,
}

pub enum DBCompressionType {
    None,
    Bz2,
}

pub enum IteratorMode {
    Start,
}

pub struct MergeOperands(Infallible);

impl<'a> IntoIterator for &'a MergeOperands {
    type Item = &'a [u8];
    type IntoIter = std::iter::Empty<&'a [u8]>;

    fn into_iter(self) -> Self::IntoIter {
        match self.0 {}
    }
}

#[derive(Default)]
pub struct Options;

impl Options {
    pub fn set_compression_type(&mut self, _kind: DBCompressionType) {}

    pub fn set_compaction_filter(
        &mut self,
        _name: &str,
        _filter: impl FnMut(u32, &[u8], &[u8]) -> CompactionDecision,
    ) {
    }

    pub fn set_merge_operator_associative(
        &mut self,
        _name: &str,
        _merge: impl Fn(&[u8], Option<&[u8]>, &MergeOperands) -> Option<Vec<u8>>,
    ) {
    }

    pub fn create_if_missing(&mut self, _create: bool) {}
}

pub struct MultiThreaded;

pub struct DBWithThreadMode<T>(Infallible, PhantomData<T>);

pub type DB = DBWithThreadMode<MultiThreaded>;

type Entry = Result<(Box<[u8]>, Box<[u8]>), Error>;

impl<T> DBWithThreadMode<T> {
    pub fn open(_options: &Options, _path: impl AsRef<Path>) -> Result<Self, Error> {
        Err(Error)
    }

    pub fn get(&self, _key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        match self.0 {}
    }

    pub fn delete(&self, _key: impl AsRef<[u8]>) -> Result<(), Error> {
        match self.0 {}
    }

    pub fn merge(&self, _key: impl AsRef<[u8]>, _value: impl AsRef<[u8]>) -> Result<(), Error> {
        match self.0 {}
    }

    pub fn iterator(&self, _mode: IteratorMode) -> std::iter::Empty<Entry> {
        match self.0 {}
    }

    pub fn prefix_iterator(&self, _prefix: impl AsRef<[u8]>) -> std::iter::Empty<Entry> {
        match self.0 {}
    }
}
