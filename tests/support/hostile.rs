//! A role that may create objects in the schema where the outbox is, and makes such that fit others' calls better than
//! the server's own do: whatever runs them, runs its code.

use sqlx::PgConnection;

use crate::support::database::Database;

/// Functions and operators for the argument types with which the relay, its triggers and its functions call the server's
/// own. Each leaves a note, and does what was asked.
const OVERLOADS: &str = r"
    create function public.noted(what text) returns void language sql as
        $$ insert into public.witness (who, what) values (current_user, what) $$;
    create function public.pg_column_size(jsonb) returns int language plpgsql as
        $$ begin perform public.noted('pg_column_size'); return 9; end $$;
    create function public.unnest(text[]) returns setof text language plpgsql as
        $$ begin perform public.noted('unnest'); return query select * from pg_catalog.unnest($1); end $$;
    create function public.convert_to(text, text) returns bytea language plpgsql as
        $$ begin perform public.noted('convert_to'); return pg_catalog.convert_to($1, $2::name); end $$;
    create function public.format(text, name, name) returns text language plpgsql as
        $$ begin perform public.noted('format'); return pg_catalog.format($1, $2::text, $3::text); end $$;
    create function public.concat_ws(text, name, name, name) returns text language plpgsql as
        $$ begin perform public.noted('concat_ws'); return pg_catalog.concat_ws($1, $2::text, $3::text, $4::text); end $$;
    create function public.joined(text, int) returns text language plpgsql as
        $$ begin perform public.noted('|| int'); return pg_catalog.concat($1, $2); end $$;
    create operator public.|| (leftarg = text, rightarg = int, function = public.joined);
    create function public.joined(text, oid) returns text language plpgsql as
        $$ begin perform public.noted('|| oid'); return pg_catalog.concat($1, $2); end $$;
    create operator public.|| (leftarg = text, rightarg = oid, function = public.joined);
    create function public.joined(text, bigint) returns text language plpgsql as
        $$ begin perform public.noted('|| bigint'); return pg_catalog.concat($1, $2); end $$;
    create operator public.|| (leftarg = text, rightarg = bigint, function = public.joined);
    create function public.is_same(oid, regclass) returns boolean language plpgsql as
        $$ begin perform public.noted('= regclass'); return pg_catalog.oideq($1, $2::oid); end $$;
    create operator public.= (leftarg = oid, rightarg = regclass, function = public.is_same);
    create function public.times(bigint, interval) returns interval language plpgsql as
        $$ begin perform public.noted('* interval'); return $1::float8 * $2; end $$;
    create operator public.* (leftarg = bigint, rightarg = interval, function = public.times);
";

/// Lets the role make all of that in the schema `public` of a database.
pub(crate) async fn move_in(database: &Database) {
    let mut conn = database.connect().await;
    run(
        &mut conn,
        "do $$ begin create role outboxd_test_hostile; exception when duplicate_object or unique_violation then null; end $$;
         grant create, usage on schema public to outboxd_test_hostile;
         create table public.witness (who text, what text);
         grant insert, select on public.witness to public;
         set role outboxd_test_hostile",
    )
    .await;
    run(&mut conn, OVERLOADS).await;
}

/// What ran the role's code, by whom; nothing if nothing did.
pub(crate) async fn witnessed(database: &Database) -> Vec<(String, String)> {
    let noted = sqlx::query_as("select distinct what, who from public.witness order by 1, 2");
    noted.fetch_all(database.pool()).await.expect("the notes are read")
}

async fn run(conn: &mut PgConnection, statements: &'static str) {
    sqlx::raw_sql(statements).execute(conn).await.unwrap_or_else(|error| panic!("{statements}: {error}"));
}
