//! What the relay's role may do beyond what it needs: whoever gets hold of its password may do that, too.

use sqlx::{PgConnection, Row};

use crate::contract::{Rights, StoreError};
use crate::postgres::operating::rights::{Need, needs};
use crate::postgres::session::ask;
use crate::postgres::table::OutboxTable;

/// Looks at the role and at each of the tables; rows of its own are written by it or not. Of a superuser, and of whoever owns a table, nothing else is worth telling.
pub(crate) async fn excess(
    conn: &mut PgConnection,
    table: &OutboxTable,
    warnings: Vec<String>,
    inserts: bool,
) -> Result<Rights, StoreError> {
    let mut needs = needs(table);
    if inserts {
        needs[0].for_operators = &["insert"];
    }
    let role = role(conn, &needs).await?;
    let mut rights = Rights { warnings, ..Rights::default() };
    if !role.attributes.is_empty() {
        rights.excess.push(format!("role {:?} is {}", role.name, role.attributes.join(", ")));
        let without: Vec<String> = role.attributes.iter().map(|attribute| format!("no{attribute}")).collect();
        rights.repair = Some(format!("alter role {:?} {}", role.name, without.join(" ")));
    }
    if role.attributes.contains(&"superuser") {
        return Ok(rights);
    }
    for need in needs {
        let (is_owner, excess) = of_table(conn, &need).await?;
        if is_owner {
            rights.excess.push(format!("it owns {}", need.table));
            rights.repair.get_or_insert_with(|| format!("alter table {} owner to OWNER", need.table));
        } else if !excess.is_empty() {
            let excess = excess.join(", ");
            rights.repair.get_or_insert_with(|| format!("revoke {excess} on {} from {:?}", need.table, role.name));
            rights.excess.push(format!("it may {excess} on {}", need.table));
        }
    }
    Ok(rights)
}

struct Role {
    name: String,
    attributes: Vec<&'static str>,
}

/// To bypass policies is needed where there are any.
async fn role(conn: &mut PgConnection, needs: &[Need]) -> Result<Role, StoreError> {
    let statement = "/* outboxd: role_attributes */
        select r.rolname::text, r.rolsuper, r.rolcreaterole, r.rolcreatedb, r.rolreplication, r.rolbypassrls and not exists (
            select from pg_catalog.pg_class c join unnest($1::text[]) t (name) on c.oid = to_regclass(t.name)
            where c.relrowsecurity)
        from pg_catalog.pg_roles r where r.rolname = current_user";
    let tables: Vec<&str> = needs.iter().map(|need| need.table.as_str()).collect();
    let row = ask("checking rights", sqlx::query(statement).bind(tables).fetch_one(conn)).await?;
    let attributes = ["superuser", "createrole", "createdb", "replication", "bypassrls"];
    let attributes = attributes.into_iter().zip(1..).filter(|(_, at)| row.get::<bool, _>(*at as usize));
    Ok(Role { name: row.get(0), attributes: attributes.map(|(attribute, _)| attribute).collect() })
}

/// Whether the role owns the table, and what it may do with it, or with any column of it, that neither it nor operators need.
async fn of_table(conn: &mut PgConnection, need: &Need) -> Result<(bool, Vec<String>), StoreError> {
    let statement = "/* outboxd: excess_rights */
        select pg_has_role(c.relowner, 'usage'), array(
            select r.name from unnest(array['insert', 'update', 'delete', 'truncate', 'references', 'trigger'])
                with ordinality r (name, at)
            where not (r.name = any($2) and (r.name <> 'update' or $3::text[] is null)) and (
                has_table_privilege(c.oid, r.name)
                or r.name in ('insert', 'update', 'references') and exists (
                    select from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                        and (r.name <> 'update' or a.attname <> all($3)) and has_column_privilege(c.oid, a.attnum, r.name)))
            order by r.at)
        from pg_catalog.pg_class c where c.oid = to_regclass($1)";
    let granted = [need.rights, need.for_operators].concat();
    let statement = sqlx::query(statement).bind(&need.table).bind(granted).bind(need.updated);
    let found = ask("checking rights", statement.fetch_optional(conn)).await?;
    Ok(found.map(|row| (row.get(0), row.get(1))).unwrap_or_default())
}
