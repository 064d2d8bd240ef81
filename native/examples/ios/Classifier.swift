import Ghostzoo

/// Classifies pictures with a bundle folder, such as one that the app brings among its resources.
public final class Classifier {
    public struct Failure: Error { public let reason: String }

    private let handle: OpaquePointer

    public init(bundle: String) throws {
        var opened: OpaquePointer?
        guard ghostzoo_open(bundle, nil, &opened) == GHOSTZOO_OK, let handle = opened else {
            throw Failure(reason: String(cString: ghostzoo_last_error()))
        }
        self.handle = handle
    }

    deinit { ghostzoo_close(handle) }

    /// - Parameter rgb: rows from the top, three bytes a pixel
    /// - Returns: the best classes, best first
    public func classify(rgb: [UInt8], width: Int32, height: Int32, count: Int = 5) throws -> [(label: String, score: Float)] {
        precondition(rgb.count == 3 * Int(width) * Int(height))
        var classes = [ghostzoo_class](repeating: ghostzoo_class(), count: count)
        var found = count
        guard ghostzoo_classify_rgb(handle, rgb, width, height, &classes, &found) == GHOSTZOO_OK else {
            throw Failure(reason: String(cString: ghostzoo_last_error()))
        }
        return classes.prefix(found).map { (String(cString: $0.label), $0.score) }
    }
}
