// SPDX-License-Identifier: Apache-2.0
// import: the target knows the machine. launch: it runs, if that was asked for. And the
// report that is left beside the disks.
#include "job/internal.h"

int phase_import(struct job *j, struct err *e)
{
    return j->target->ops->import(j->target, &j->place, e);
}

int phase_import_undo(struct job *j, struct err *e)
{
    return j->target->ops->remove ? j->target->ops->remove(j->target, &j->place, e) : 0;
}

int phase_launch(struct job *j, struct err *e)
{
    if (!j->request.start)
        return 0;
    if (!j->target->ops->launch)
        return err_set(e, ERR_REFUSED,
                       "%s only keeps files: start %s.xml with virsh yourself",
                       j->row.target, j->row.name);
    return j->target->ops->launch(j->target, &j->place, e);
}

int job_write_report(struct job *j, struct err *e)
{
    if (!str_starts(j->row.target, "dir:") || j->place.n_disks == 0)
        return 0;
    AUTO(str_free) char *dir = path_dir(j->place.disks[0].replica);
    AUTO(str_free) char *path = path_join(dir, "report.json");
    AUTO(json_free) json_t *report = json_deep_copy(j->row.report);
    json_object_set_new(report, "job", json_integer((json_int_t)j->row.id));
    json_object_set_new(report, "name", json_string(j->row.name));
    json_object_set_new(report, "source", json_string(j->row.source));
    json_object_set_new(report, "target", json_string(j->row.target));
    AUTO(str_free) char *text = json_dumps(report, JSON_INDENT(2));
    return file_write(path, text, strlen(text), 0644, e);
}
