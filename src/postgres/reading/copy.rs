//! Rows as `COPY … TO STDOUT (FORMAT binary)` sends them: with less ado than a statement's rows, where there are many.
//!
//! The format: <https://www.postgresql.org/docs/current/sql-copy.html>, "Binary Format".

use crate::contract::BoxError;
use crate::postgres::reading::rows::{RowBytes, WIDTH};

/// What begins the first message.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Flags above these say that the format is another.
const CRITICAL: u32 = 0xffff;

/// A row.
pub(crate) struct Tuple<'a>([Option<&'a [u8]>; WIDTH]);

impl RowBytes for Tuple<'_> {
    fn bytes(&self, column: usize) -> Result<Option<&[u8]>, BoxError> {
        Ok(self.0[column])
    }
}

/// A message, from which rows are taken one after the other. There is one in each, usually.
pub(crate) struct Message<'a> {
    rest: &'a [u8],
}

impl<'a> Message<'a> {
    /// A message as it came.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, BoxError> {
        let Some(rest) = bytes.strip_prefix(SIGNATURE) else { return Ok(Self { rest: bytes }) };
        let mut message = Self { rest };
        let flags = u32::from_be_bytes(message.fixed()?);
        if flags > CRITICAL {
            return Err(format!("rows were copied in another format, with flags {flags:#x}").into());
        }
        let extension = u32::from_be_bytes(message.fixed()?);
        message.part(extension as usize)?;
        Ok(message)
    }

    /// The next row; nothing after the last one.
    pub(crate) fn next(&mut self) -> Result<Option<Tuple<'a>>, BoxError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let columns = i16::from_be_bytes(self.fixed()?);
        if columns == -1 {
            return if self.rest.is_empty() { Ok(None) } else { Err("something follows the last copied row".into()) };
        }
        if usize::try_from(columns).ok() != Some(WIDTH) {
            return Err(format!("{columns} columns were copied instead of {WIDTH}").into());
        }
        let mut tuple = Tuple([None; WIDTH]);
        for column in &mut tuple.0 {
            *column = match i32::from_be_bytes(self.fixed()?) {
                -1 => None,
                length => {
                    let length = usize::try_from(length);
                    Some(self.part(length.map_err(|_negative| "a copied column has a length below 0")?)?)
                }
            };
        }
        Ok(Some(tuple))
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], BoxError> {
        Ok(self.part(N)?.try_into()?)
    }

    fn part(&mut self, length: usize) -> Result<&'a [u8], BoxError> {
        let (part, rest) = self.rest.split_at_checked(length).ok_or("a copied row is cut off")?;
        self.rest = rest;
        Ok(part)
    }
}

#[cfg(test)]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn row(first: &[u8]) -> Vec<u8> {
        let mut bytes = (WIDTH as i16).to_be_bytes().to_vec();
        bytes.extend((first.len() as i32).to_be_bytes());
        bytes.extend(first);
        bytes.extend((-1_i32).to_be_bytes().repeat(WIDTH - 1));
        bytes
    }

    #[test]
    fn rows_are_read_after_the_header_and_before_the_trailer_wherever_messages_end() {
        let header = [SIGNATURE, &[0; 4], &2_u32.to_be_bytes(), b"xx"].concat();
        let all = [&header[..], &row(b"a"), &row(b""), &(-1_i16).to_be_bytes()].concat();
        let mut message = Message::new(&all).expect("a header");
        let a = message.next().expect("a row").expect("not the end");
        assert_eq!((a.bytes(0).expect("bytes"), a.bytes(1).expect("bytes")), (Some(&b"a"[..]), None));
        let empty = message.next().expect("a row").expect("not the end");
        assert_eq!(empty.bytes(0).expect("bytes"), Some(&b""[..]));
        assert!(message.next().expect("the trailer").is_none());
        assert!(Message::new(&header).expect("a header").next().expect("no row").is_none());
    }

    #[test]
    fn a_row_that_is_cut_off_or_has_other_columns_is_an_error() {
        let bytes = row(b"abc");
        for end in 1..bytes.len() {
            assert!(Message::new(&bytes[..end]).expect("no header").next().is_err(), "cut at {end}");
        }
        assert!(Message::new(&[0, 1]).expect("no header").next().is_err());
    }

    #[test]
    fn lengths_flags_and_rests_that_no_server_sends_are_errors() {
        let mut negative = row(b"a");
        negative[2..6].copy_from_slice(&(-2_i32).to_be_bytes());
        assert!(Message::new(&negative).expect("no header").next().is_err(), "only -1 is null");
        let other = [SIGNATURE, &[0, 1, 0, 0], &0_u32.to_be_bytes()].concat();
        assert!(Message::new(&other).is_err(), "the format is another");
        let more = [&(-1_i16).to_be_bytes()[..], &row(b"a")].concat();
        assert!(Message::new(&more).expect("no header").next().is_err(), "a row after the last");
    }
}
