#include "op.h"

#include <algorithm>

namespace flux {

int64_t elements(const Shape& shape) {
    int64_t count = 1;
    for (int64_t size : shape) count *= size;
    return count;
}

std::string text(const Shape& shape) {
    std::string found;
    for (int64_t size : shape) found += (found.empty() ? "" : " x ") + std::to_string(size);
    return "(" + found + ")";
}

const std::vector<int32_t>& ints(const Attributes& attributes, const char* name) {
    return std::get<std::vector<int32_t>>(attributes.at(name));
}

float real(const Attributes& attributes, const char* name) {
    return std::get<std::vector<float>>(attributes.at(name))[0];
}

void check_attributes(const Op& op, const Attributes& attributes) {
    for (const Field& field : op.fields) {
        const auto found = attributes.find(field.name);
        if (found == attributes.end() && field.optional) continue;
        require(found != attributes.end(), op.name, ": attribute '", field.name, "' is missing");
        const bool is_real = std::holds_alternative<std::vector<float>>(found->second);
        require(is_real == field.is_real, op.name, ": attribute '", field.name, "' must be of ",
                field.is_real ? "float32" : "int32");
        const size_t count = std::visit([](const auto& values) { return values.size(); }, found->second);
        require(field.count == kAny || count == static_cast<size_t>(field.count), op.name, ": attribute '", field.name,
                "' has ", count, " values, expected ", field.count);
    }
    for (const auto& [name, values] : attributes) {
        const bool known = std::any_of(op.fields.begin(), op.fields.end(),
                                       [&, &wanted = name](const Field& field) { return field.name == wanted; });
        require(known, op.name, ": attribute '", name, "' is unknown");
    }
    if (op.check_values) op.check_values(attributes);
}

void check_ranks(const Op& op, const std::vector<int>& ranks) {
    require(ranks.size() == op.inputs.size(), op.name, ": ", ranks.size(), " inputs, expected ", op.inputs.size());
    for (size_t i = 0; i < ranks.size(); ++i) {
        const Port& port = op.inputs[i];
        require(port.rank == kAny || ranks[i] == port.rank, op.name, ": ", port.name, " has ", ranks[i],
                " dimensions, expected ", port.rank);
    }
}

bool accepts(const Op& op, size_t port, Type type, const std::vector<Type>& before) {
    if (port >= op.inputs.size() + op.outputs.size()) return false;
    const Port& one = port < op.inputs.size() ? op.inputs[port] : op.outputs[port - op.inputs.size()];
    if (one.like >= 0) return before[static_cast<size_t>(one.like)] == type;
    return std::find(one.types.begin(), one.types.end(), type) != one.types.end();
}

std::vector<Shape> output_shapes(const Op& op, const Attributes& attributes, const std::vector<Shape>& inputs) {
    std::vector<int> ranks;
    for (const Shape& shape : inputs) ranks.push_back(static_cast<int>(shape.size()));
    check_ranks(op, ranks);
    const std::vector<Extents> extents = op.extents(attributes, ranks);
    op.check(attributes, inputs);
    std::vector<Shape> found;
    for (const Extents& output : extents) {
        Shape shape;
        for (const Extent& extent : output) {
            int64_t size = extent.factor;
            for (const auto& [input, d] : extent.sizes)
                size *= inputs[static_cast<size_t>(input)][static_cast<size_t>(d)];
            shape.push_back((size + extent.divisor - 1) / extent.divisor);
        }
        found.push_back(shape);
    }
    return found;
}

size_t workspace_bytes(const Op& op, const std::vector<Shape>& inputs) {
    return op.workspace_bytes ? op.workspace_bytes(inputs) : 0;
}

std::vector<Step> steps(const Op& op, const Call& call) {
    require(call.outputs.size() == op.outputs.size(), op.name, ": ", call.outputs.size(), " outputs, expected ",
            op.outputs.size());
    std::vector<Type> types;
    std::vector<Shape> shapes;
    const auto take = [&](const Tensor& tensor, const Port& port) {
        require(accepts(op, types.size(), tensor.type, types), op.name, ": ", port.name, " is of ",
                info(tensor.type).name, ", which it must not be");
        require(elements(tensor.shape) <= kMostElements, op.name, ": ", port.name, " ", text(tensor.shape),
                " has more than ", kMostElements, " elements");
        types.push_back(tensor.type);
        shapes.push_back(tensor.shape);
    };
    require(call.inputs.size() == op.inputs.size(), op.name, ": ", call.inputs.size(), " inputs, expected ",
            op.inputs.size());
    for (size_t i = 0; i < op.inputs.size(); ++i) take(call.inputs[i], op.inputs[i]);
    const std::vector<Shape> wanted = output_shapes(op, call.attributes, shapes);
    for (size_t i = 0; i < op.outputs.size(); ++i) {
        take(call.outputs[i], op.outputs[i]);
        require(call.outputs[i].shape == wanted[i], op.name, ": ", op.outputs[i].name, " is ",
                text(call.outputs[i].shape), ", expected ", text(wanted[i]));
    }
    std::vector<Step> found;
    op.plan(call, found);
    return found;
}

}  // namespace flux
