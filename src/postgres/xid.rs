//! Transaction ids as parameters: sqlx has no `xid8`, and a text parameter with a cast would be parsed for
//! each row that it is compared with.

use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo};
use sqlx::{Postgres, Type};

/// `xid8` and `xid8[]` in `pg_type.dat`; built-in types never change their oids.
const XID8: Oid = Oid(5069);
const XID8_ARRAY: Oid = Oid(271);

/// A transaction id of 64 bits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Xid(pub u64);

impl Xid {
    /// All of them, for an array parameter.
    pub(super) fn all(xids: &[u64]) -> Vec<Xid> {
        xids.iter().copied().map(Xid).collect()
    }
}

impl Type<Postgres> for Xid {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(XID8)
    }
}

impl PgHasArrayType for Xid {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(XID8_ARRAY)
    }
}

impl Encode<'_, Postgres> for Xid {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }
}
