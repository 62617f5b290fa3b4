// A creator for every op, in TensorRT's registry as soon as the library is loaded.
#pragma once
#include <memory>

#include "core.h"

namespace flux {
namespace plugin {

template <class Creator>
class Registration {
  public:
    Registration() {
        for (const Op* op : ops()) {
            creators_.push_back(std::make_unique<Creator>(*op));
            if (!getPluginRegistry()->registerCreator(*creators_.back(), kNamespace)) {
                log_error(op->name, "a plugin of this name and version is registered already");
            }
        }
    }

  private:
    std::vector<std::unique_ptr<Creator>> creators_;
};

}  // namespace plugin
}  // namespace flux
