#include "table.h"

namespace flux {

const std::vector<const Op*>& ops() {
    static const std::vector<const Op*> kOps = {
        &correct_attention(), &gate(),           &halo_gather(), &hold(),        &limit(),
        &miss_window(),       &motion_reindex(), &resample(),    &row_scatter(), &tile_scatter()};
    return kOps;
}

const Op& find_op(const std::string& name) {
    for (const Op* op : ops()) {
        if (op->name == name) return *op;
    }
    throw std::invalid_argument("no kernel for an op named '" + name + "'");
}

}  // namespace flux
