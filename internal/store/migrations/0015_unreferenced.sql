-- PostgreSQL checks a reference by a query of its own for each row, and a version has dozens of rows in the index: a fifth of its
-- work in an import. Whoever deletes an entry deletes its rows, there and on SQLite, where checking costs next to nothing.
/*POSTGRES
ALTER TABLE catalogue_words DROP CONSTRAINT catalogue_words_entry_fkey;
ALTER TABLE catalogue_amounts DROP CONSTRAINT catalogue_amounts_entry_fkey;
POSTGRES*/
