//! Primitives of the protobuf wire format.
//!
//! Fields are always written, also with their default value.

use bytes::BufMut;

/// Wire type of a varint.
const VARINT: u64 = 0;
/// Wire type of eight little-endian bytes.
const FIXED64: u64 = 1;
/// Wire type of a length followed by that many bytes.
pub(crate) const LEN_DELIMITED: u64 = 2;
/// Wire type of four little-endian bytes.
const FIXED32: u64 = 5;

/// Returns the size of a varint in bytes; each byte holds seven bits.
pub(crate) const fn varint_size(number: u64) -> usize {
    (64 - (number | 1).leading_zeros()).div_ceil(7) as usize
}

/// Returns the size in bytes of a length-delimited field with `length` bytes of content and a field number
/// below 16.
pub(crate) const fn len_delimited_size(length: usize) -> usize {
    1 + varint_size(length as u64) + length
}

/// Writes protobuf to a buffer.
pub(crate) trait PutProtobuf: BufMut {
    fn put_varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.put_u8(number as u8 | 0x80);
            number >>= 7;
        }
        self.put_u8(number as u8);
    }

    /// Writes the tag of a field: its number and its wire type.
    fn put_tag(&mut self, field: u64, wire_type: u64) {
        self.put_varint(field << 3 | wire_type);
    }

    fn put_varint_field(&mut self, field: u64, number: u64) {
        self.put_tag(field, VARINT);
        self.put_varint(number);
    }

    fn put_fixed64_field(&mut self, field: u64, number: u64) {
        self.put_tag(field, FIXED64);
        self.put_u64_le(number);
    }

    /// Writes the tag and length of a length-delimited field; its content is to follow.
    fn put_len_prefix(&mut self, field: u64, length: usize) {
        self.put_tag(field, LEN_DELIMITED);
        self.put_varint(length as u64);
    }

    fn put_bytes_field(&mut self, field: u64, bytes: &[u8]) {
        self.put_len_prefix(field, bytes.len());
        self.put_slice(bytes);
    }

    fn put_fixed32_field(&mut self, field: u64, number: u32) {
        self.put_tag(field, FIXED32);
        self.put_u32_le(number);
    }
}

impl<B: BufMut> PutProtobuf for B {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_size_of_a_varint_is_the_number_of_bytes_written(number: u64, shift in 0_u32..64) {
            let mut written = vec![];
            written.put_varint(number >> shift);
            prop_assert_eq!(written.len(), varint_size(number >> shift));
        }
    }
}
