//! What travels with a record through the client, as one integer.

/// A slot, an index in it, and whether the record is the first of a cold partition.
pub(crate) struct Ticket {
    pub(crate) slot: usize,
    pub(crate) index: usize,
    pub(crate) first: bool,
}

impl Ticket {
    /// What travels through the client.
    pub(crate) fn write(&self) -> usize {
        debug_assert!(self.slot < 1 << 31 && self.index < 1 << 32);
        usize::from(self.first) << 63 | self.slot << 32 | self.index
    }

    /// Reads what [`write`](Self::write) made.
    pub(crate) fn read(opaque: usize) -> Self {
        Self { slot: opaque >> 32 & 0x7fff_ffff, index: opaque & 0xffff_ffff, first: opaque >> 63 == 1 }
    }
}
